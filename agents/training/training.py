"""The training loop: collect, learn at the replay ratio, evaluate, log, checkpoint."""

import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from qdreamer.agents.distributed.orders import make_followers
from qdreamer.agents.distributed.parallel import ALONE, Ranks
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.collector import Collector, Episode, replay_fields, replay_state_shape
from qdreamer.agents.interaction.evaluation import Evaluator, Stopped, mean_and_interval
from qdreamer.agents.optim.optimizer_factory import make_optimizer
from qdreamer.agents.randomness import WEIGHTS, stream_seed
from qdreamer.agents.replay import Replay
from qdreamer.agents.replay.factory import make_sampler
from qdreamer.agents.reporting.metrics import MetricsLog, RunningMeans
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.reporting.reporting import Reporter
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.summary import QUANTUM_PARTS, Costs, Summary
from qdreamer.agents.training.config import Config
from qdreamer.agents.training.interrupt import Interrupt
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.memory import keep_freed_memory
from qdreamer.envs.factory import make_env
from qdreamer.envs.spaces import action_spec, observation_spec
from qdreamer.native import kernels, products
from qdreamer.native.compiler import CompileError
from qdreamer.quantum.jobs.budget import Budget


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    step: int
    updates: int
    seconds: float  # of all sessions together
    evaluation: tuple[float, float, float] | None  # last mean return and its 95 % interval
    evaluated_at: int  # step of that evaluation
    solved_at: int | None  # first evaluated step whose mean return reached env.solved
    signal: int | None  # what interrupted it


def make_agent(config: Config, device: str | None = None, ranks: Ranks = ALONE) -> Dreamer:
    """The untrained agent for the configured environment; its weights follow from config.seed."""
    env = make_env(config.env)
    observation, action = observation_spec(env.observation_space), action_spec(env.action_space)
    env.close()
    torch.manual_seed(stream_seed(WEIGHTS, config.seed))
    return Dreamer(config, observation, action, ranks).to(device or ranks.device(config.device))


def make_learner(config: Config, directory: Path, ranks: Ranks = ALONE) -> Learner:
    """Agent, optimizer and empty replay buffer of the run in `directory`."""
    agent, train = make_agent(config, ranks=ranks), config.train
    budget = Budget.from_config(config.quantum)  # one for all job queues
    fields = replay_fields(
        agent.observation, agent.action, replay_state_shape(agent), agent.world_model.rssm.stoch
    )
    replay = Replay(
        config.replay.capacity,
        config.env.num_envs,
        train.batch_length,
        fields,
        make_sampler(config, directory, budget),
        {"observation": directory / "replay" / "observation.bin"} if config.replay.mapped else None,
        # A step stores two rows at most; one checkpoint may be skipped.
        spare=4 * (config.checkpoint.every // config.env.num_envs + 2),
    )
    optimizer = make_optimizer(config, agent, directory, budget)
    return Learner(agent, optimizer, replay, train.batch_size, train.forget, config.seed)


def prepare_torch(config: Config) -> None:
    """What holds for the whole process."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    torch.set_flush_denormal(True)  # weights below 1e-38 count as zero, and cost no more than others
    products.use_bfloat16(config.precision == "bfloat16")
    use_kernels(config)


def use_kernels(config: Config) -> None:
    """Switch the fused kernels on, or warn that torch does their work."""
    try:
        kernels.use(
            config.kernels and config.device == "cpu",
            lambda: print("compiling kernels, once on this machine …", file=sys.stderr, flush=True),
        )
    except CompileError as error:
        kernels.use(False)
        print(
            f"warning: {error}; torch does the same in more time (kernels=false is silent)", file=sys.stderr
        )


class Run:
    """Everything that a run consists of, and the loop over it; with several ranks, rank 0's."""

    def __init__(self, config: Config, directory: Path, ranks: Ranks = ALONE) -> None:
        self.config, self.directory = config, directory
        prepare_torch(config)
        self.learner = make_learner(config, directory, ranks)
        self.agent, self.replay = self.learner.agent, self.learner.replay
        self.followers = make_followers(ranks, self.learner)
        actor = ActingLoop(self.agent, config.env.num_envs, config.seed)
        self.collector = Collector(config.env, self.followers.store, actor, config.seed, self.learner.watch)
        evaluation = config.evaluation
        self.evaluator = Evaluator(
            config.env, evaluation.episodes, evaluation.seed, evaluation.deterministic, evaluation.max_steps
        )
        self.means = RunningMeans()
        self.step = 0
        self.seconds = 0.0  # of earlier sessions
        self.credit = 0.0  # updates that the replay ratio allows by now
        self.solved_at: int | None = None
        self.last_evaluation: tuple[float, float, float] | None = None
        self.evaluated_at = 0
        self.evaluation_due = False  # one was interrupted: it comes first next time
        self._begin: float | None = None  # when this session began to train
        self.parts: dict[str, float] = {}  # seconds in each part of the loop, up to the last line of the log
        resume_at = self._restore() if checkpoint.exists(directory) else None
        self.summary = Summary(directory, self.step, config.steps)
        self.log = MetricsLog(directory, config.logging.tensorboard, resume_at)
        self.reporter = Reporter(config, self.log, directory)
        if resume_at is None:
            self.reporter.begin()

    def train(self, progress: Progress) -> Finished:
        """Go on to config.steps, or until Ctrl-C or SIGTERM; always leaves a checkpoint."""
        config = self.config
        self._begin = perf_counter()
        with Interrupt() as interrupt:
            self.followers.begin()
            self._evaluate(progress, interrupt)
            while self.step < config.steps and interrupt.signal is None:
                episodes = self.collector.step(random=self.step < config.train.prefill)
                self.step += config.env.num_envs
                self._log_episodes(episodes, progress)
                self._learn(interrupt)
                if self._due(config.logging.every):
                    self._log_means()
                self.evaluation_due = self._due(config.evaluation.every) or self.step >= config.steps
                self._evaluate(progress, interrupt)
                if self._due(config.checkpoint.every):
                    self._save()
                progress.show(self.step, self.learner.updates)
            self._save()
        self.summarise()
        progress.show(self.step, self.learner.updates, force=True)
        return Finished(
            self.step,
            self.learner.updates,
            self._elapsed(),
            self.last_evaluation,
            self.evaluated_at,
            self.solved_at,
            interrupt.signal,
        )

    def summarise(self) -> None:
        """Keep what the run has cost so far, for comparisons."""
        costs = Costs(self.step, self.learner.updates, self._elapsed(), self.parts, self.learner.spending())
        self.summary.write(self.config, self.agent, costs)

    def close(self) -> None:
        self.log.close()
        self.learner.close()
        self.replay.close()
        self.collector.close()
        self.evaluator.close()

    def _learn(self, interrupt: Interrupt) -> None:
        updates = self._updates_due()
        interrupt.note(self.followers.learn(updates, interrupt.signal))
        for _ in range(updates):
            self.means.add(self.learner.update())

    def _updates_due(self) -> int:
        """Updates that are due."""
        train, updates = self.config.train, 0
        if self.step < train.prefill or not self.replay.ready(1):
            return 0
        self.credit += self.config.env.num_envs * train.replay_ratio / (train.batch_size * train.batch_length)
        while self.credit >= 1.0:
            self.credit -= 1.0
            updates += 1
        return updates

    def _due(self, every: int) -> bool:
        """Whether a multiple of `every` was passed by this iteration's steps."""
        return self.step // every > (self.step - self.config.env.num_envs) // every

    def _log_episodes(self, episodes: list[Episode], progress: Progress) -> None:
        for episode in episodes:
            self.log.scalars(self.step, {"train/return": episode.score, "train/length": episode.length})
            progress.episode(episode.score)

    def _log_means(self) -> None:
        metrics = self.means.read()
        metrics |= {"updates": self.learner.updates, **self.replay.metrics(), **self.learner.search_metrics()}
        elapsed = self._elapsed()
        metrics["time/seconds"] = elapsed
        metrics |= {f"time/{part}": seconds for part, seconds in self.learner.watch.seconds.items()}
        for part in {*self.learner.watch.seconds, *QUANTUM_PARTS}:
            self.parts[part] = self.parts.get(part, 0.0) + metrics.get(f"time/{part}", 0.0)
        self.learner.watch.reset()
        self.log.scalars(self.step, metrics)
        self.reporter.histograms(self.step, self.replay.sampler)

    def _evaluate(self, progress: Progress, interrupt: Interrupt) -> None:
        """Evaluate if it is due; an interrupted evaluation stays due."""
        if not self.evaluation_due:
            return
        try:
            with self.learner.watch("evaluation"):
                episodes = self.evaluator.run(self.agent, stop=lambda: interrupt.signal is not None)
        except Stopped:
            return
        self.evaluation_due = False
        self.evaluated_at = self.step
        mean, low, high = mean_and_interval([episode.score for episode in episodes])
        self.last_evaluation = (mean, low, high)
        solved = self.config.env.solved
        if self.solved_at is None and solved is not None and mean >= solved:
            self.solved_at = self.step
        self.reporter.evaluation(self.step, self.agent, episodes, (mean, low, high), self._elapsed())
        progress.evaluation(mean)

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._begin is None else perf_counter() - self._begin)

    def _save(self) -> None:
        """Raises FloatingPointError rather than overwrite a sound checkpoint with broken weights."""
        if not all(bool(torch.isfinite(p).all()) for p in self.agent.parameters()):
            raise FloatingPointError(f"weights are not finite at step {self.step}")
        self.followers.verify()
        state = {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "collector": self.collector.state_dict(),
            "means": self.means.state_dict(),
            "step": self.step,
            "seconds": self._elapsed(),
            "credit": self.credit,
            "solved_at": self.solved_at,
            "last_evaluation": self.last_evaluation,
            "evaluated_at": self.evaluated_at,
            "evaluation_due": self.evaluation_due,
            "parts": self.parts,
            "log_offset": self.log.offset(),
        }
        checkpoint.save(self.directory, state)

    def _restore(self) -> tuple[int, int]:
        state: dict[str, Any] = checkpoint.load(self.directory)
        with checkpoint.translate_load_errors(self.directory):
            self.learner.load_state_dict(state["learner"])
            self.replay.load_state_dict(state["replay"])
            self.same_episodes = self.collector.load_state_dict(state["collector"])
            self.means.load_state_dict(state["means"])
        self.step, self.seconds, self.credit = state["step"], state["seconds"], state["credit"]
        self.solved_at = state["solved_at"]
        last = state["last_evaluation"]
        self.last_evaluation = None if last is None else tuple(last)
        self.evaluated_at, self.evaluation_due = state["evaluated_at"], state["evaluation_due"]
        self.parts = dict(state.get("parts", {}))
        return state["log_offset"], self.step
