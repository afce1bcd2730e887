"""The training loop: collect, learn at the replay ratio, evaluate, log, checkpoint."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qdreamer import native
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.collector import Collector, replay_fields
from qdreamer.agents.optim.optimizer import make_optimizer
from qdreamer.agents.randomness import WEIGHTS, shard_seed, stream_seed
from qdreamer.agents.replay.config import make_sampler, make_selection
from qdreamer.agents.replay.signals import SIGNALS
from qdreamer.agents.replay.storage import Replay
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.cores import use_threads
from qdreamer.agents.runs.run_directory import origin
from qdreamer.agents.substitution import substitute
from qdreamer.agents.training import initial_data, storage_choice
from qdreamer.agents.training.interrupt import Interrupt
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.memory import keep_freed_memory, set_up_is_no_garbage
from qdreamer.agents.training.observer import Observer, passed
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.edge.guard import EnvFailure
from qdreamer.envs.entries import Spec, field
from qdreamer.envs.factory import describe
from qdreamer.native import products
from qdreamer.native.library import LIMIT, CompileError
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.worldmodel.model import WorldModel

_FAILED = 1000  # among signals, of which the largest number counts: an environment failed


def make_dreamer(
    config: Config, observation: Mapping[str, Spec], action: ActionSpec, ranks: SingleProcess = SINGLE_PROCESS
) -> Dreamer:
    """Make the agent of a run's config for such observations and actions."""
    parts = config.world_model, config.sequence, config.attention
    model = WorldModel(*parts, observation, action.size, config.quantum)
    agent = Dreamer(config.agent, model, observation, action, ranks)
    substitute(agent, config.weights, config.heads)
    return agent


def make_agent(config: Config, device: str | None = None, ranks: SingleProcess = SINGLE_PROCESS) -> Dreamer:
    """Make the untrained agent for the configured environment; its weights follow from config.seed."""
    interface = describe(config.env)
    torch.manual_seed(stream_seed(WEIGHTS, config.seed))
    agent = make_dreamer(config, interface.observation, interface.action, ranks)
    return agent.to(device or ranks.device(config.device))


def make_learner(
    config: Config,
    directory: Path,
    ranks: SingleProcess = SINGLE_PROCESS,
    circuits: CircuitAccess | None = None,
) -> Learner:
    """Make agent, optimizer and this rank's empty shard of the replay buffer, for a run in `directory`."""
    agent, train = make_agent(config, ranks=ranks), config.train
    circuits = circuits or CircuitAccess.of(config.quantum, directory)
    shard = replace(config.replay, capacity=config.replay.capacity // ranks.size)
    seed = shard_seed(config.seed, ranks.rank)
    fields, entries = replay_fields(agent), [field(name) for name in agent.observation]
    replay = Replay(
        shard.capacity,
        config.env.num_envs,
        train.batch_length,
        fields,
        make_sampler(shard, config.env.num_envs, train.batch_length, seed, circuits),
        storage_choice.choose_files(config, directory, fields, entries),
        directory / storage_choice.FOLDER / f"rank_{ranks.rank}",
        context=agent.world_model.rssm.sequence.memory.context,
        selection=make_selection(config.replay, seed),
    )
    optimizer = make_optimizer(config.optimizer, agent, config.seed, circuits)
    signal = None if config.replay.measured is None else SIGNALS[config.replay.measured]
    return Learner(agent, optimizer, replay, train.batch_size, train.forget, config.seed, signal)


def prepare_torch(config: Config) -> None:
    """Set what holds for the whole process: threads, memory, denormal numbers, precision, kernels."""
    use_threads(config.threads)
    keep_freed_memory()
    torch.set_flush_denormal(True)  # weights below 1e-38 count as zero, and cost no more than others
    products.use_bfloat16(config.precision == "bfloat16")
    use_kernels(config)


def use_kernels(config: Config) -> None:
    """Switch the fused kernels on, or warn that torch does their work."""
    waiting = f"compiling kernels, once on this machine (at most {LIMIT:.0f} s) …"
    try:
        native.use(
            config.kernels and config.device == "cpu",
            lambda: print(waiting, file=sys.stderr, flush=True),
        )
    except CompileError as error:
        native.use(False)
        text = f"warning: {error}; torch does the same in more time (kernels=false is silent)"
        print(text, file=sys.stderr)


def _failure_of(act: Callable[[], None]) -> EnvFailure | None:
    """Return how an environment failed in an act of one rank, of which the others do not know yet."""
    try:
        act()
    except EnvFailure as failure:
        return failure
    return None


class Run:
    """Everything that a run consists of, and the loop over it; with several ranks, one rank's part of it.

    Rank 0's alone has an observer.
    """

    def __init__(self, config: Config, directory: Path, ranks: SingleProcess = SINGLE_PROCESS) -> None:
        self.config, self.directory, self.ranks = config, directory, ranks
        prepare_torch(config)
        self.circuits = CircuitAccess.of(config.quantum, directory)
        self.learner = make_learner(config, directory, ranks, self.circuits)
        self.agent, self.replay = self.learner.agent, self.learner.replay
        pink = config.train.pink_noise and config.train.collect
        acting = ActingLoop(self.agent, config.env.num_envs, config.seed, pink=pink, ranks=ranks)
        self.collector = Collector(config.env, self.replay, acting, config.seed, self.learner.watch, pink)
        self.stride = ranks.size * config.env.num_envs  # environment steps of one iteration
        self.step = 0
        self.credit = 0.0  # updates that the replay ratio allows by now
        self._ready = False  # all ranks have stored a sequence
        self._saved: int | None = None  # step of the newest checkpoint of this session
        state = None
        if checkpoint.exists(directory):
            state = self._restore()
        elif config.replay.initial is not None:
            initial_data.fill(self.replay, self.agent, config.replay.initial)
            if not config.train.collect and not self.replay.ready(1):
                raise ConfigError(
                    f"replay.initial={config.replay.initial} has no sequence of train.batch_length="
                    f"{config.train.batch_length} rows in any of env.num_envs={config.env.num_envs} rings"
                )
        self.observer: Observer | None = None
        if ranks.rank == 0:
            budget = self.circuits.budget
            self.observer = Observer(
                config, directory, self.learner, budget, self.stride, self.step, state, self.collector.lend
            )

    def train(self, progress: Progress) -> int | None:
        """Go on to config.steps, or until Ctrl-C or SIGTERM on any rank; always leaves a checkpoint.

        Returns the signal that interrupted the run, if one did. Raises EnvFailure.
        """
        observer = self.observer
        with Interrupt() as interrupt:
            self.ranks.broadcast(self.agent)  # other processors may have rounded initial weights otherwise
            self.ranks.check_equal(self.agent, self.step)
            if observer is not None:
                observer.begin(progress)
            try:
                with set_up_is_no_garbage():
                    signal = self._loop(interrupt)
            except EnvFailure as failure:
                raise self._saved_first(failure) from failure
            if self._saved != self.step:  # else the two checkpoints that are kept would be one
                self._save()
        if observer is not None:
            observer.summarise(self.step)
            observer.show(self.step, force=True)
        return signal or None

    def _loop(self, interrupt: Interrupt) -> int:
        """Go on until all steps are taken or a signal came, which is returned, 0 if none did."""
        config, observer = self.config, self.observer
        failure: EnvFailure | None = None
        if observer is not None:
            failure = _failure_of(partial(observer.evaluate, self.step, interrupt))
        signal = self._agree(interrupt, failure)
        while self.step < config.steps and not signal:
            random = self.step < config.train.prefill
            episodes = self.collector.step(random) if config.train.collect else []
            self.step += self.stride
            metrics = [self.learner.update() for _ in range(self._updates_due())]
            if observer is not None:
                failure = _failure_of(partial(observer.record, self.step, episodes, metrics, interrupt))
            if passed(self.step, self.stride, config.checkpoint.every):
                self._save()
            if observer is not None:
                observer.show(self.step)
            signal = self._agree(interrupt, failure)
        return signal

    def _agree(self, interrupt: Interrupt, failure: EnvFailure | None) -> int:
        """Return the signal that came to any rank, 0 if none did.

        Raises EnvFailure on all ranks if rank 0's evaluation failed, which stays due.
        """
        told = self.ranks.maximum(_FAILED if failure else interrupt.signal or 0)
        if told == _FAILED:
            raise failure or EnvFailure("an evaluation failed on rank 0")
        return told

    def _saved_first(self, failure: EnvFailure) -> EnvFailure:
        """Save, and return what to say about an environment that failed; all ranks are between iterations."""
        if self._saved != self.step:
            self._save()
        if self.observer is not None:
            self.observer.summarise(self.step)
        return EnvFailure(f"{failure}; saved at step {self.step}, where the same command goes on")

    def close(self) -> None:
        if self.observer is not None:
            self.observer.close()
        self.circuits.close()
        self.collector.close()

    def _updates_due(self) -> int:
        """Return how many updates the replay ratio asks for after an iteration's steps."""
        train = self.config.train
        if self.step < train.begin:
            return 0
        self._ready = self._ready or not self.ranks.maximum(int(not self.replay.ready(1)))
        if not self._ready:
            return 0
        self.credit += self.stride * train.replay_ratio / (train.batch_size * train.batch_length)
        updates = int(self.credit)
        self.credit -= updates
        return updates

    def _save(self) -> None:
        """Save. Raises FloatingPointError rather than overwrite a sound checkpoint with broken weights."""
        if not all(bool(torch.isfinite(p).all()) for p in self.agent.parameters()):
            raise FloatingPointError(f"weights are not finite at step {self.step}")
        self.ranks.check_equal(self.agent, self.step)
        state = {"origin": origin(self.config), "step": self.step, "credit": self.credit}
        state["learner"] = self.learner.state_dict()
        if self.observer is not None:
            state["observer"] = self.observer.state_dict()
        shard = {"replay": self.replay.state_dict(), "collector": self.collector.state_dict()}
        with self.ranks.collective_errors():
            shard["files"] = self.replay.files()
        checkpoint.save(self.directory, state, shard, self.ranks)
        self.ranks.maximum(0)  # waits for rank 0, whose file it is
        self.replay.saved()
        self._saved = self.step

    def _restore(self) -> dict[str, Any]:
        """Go on from the directory's checkpoint; return the observer's part of it."""
        state = checkpoint.restore(self.directory, self.ranks)
        checkpoint.check_origin(self.directory, state, origin(self.config))
        shard = checkpoint.load_shard(self.directory, state, self.ranks)
        with checkpoint.translate_load_errors(self.directory):
            checkpoint.check_counters(state, self.stride)
            self.learner.load_state_dict(state["learner"])
            self.replay.load_state_dict(shard["replay"], shard.get("files"))
            self.same_episodes = self.collector.load_state_dict(shard["collector"])
            self.step, self.credit = state["step"], state["credit"]
            return dict(state["observer"])
