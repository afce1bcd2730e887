"""One update: sample, loss, backward, optimizer, and fresh latents back into replay."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qdreamer.agents.dreamer import Dreamer, Outcome
from qdreamer.agents.optim.local_objective import WorldModelObjective
from qdreamer.agents.optim.optimizer import AgentOptimizer
from qdreamer.agents.randomness import LEARNING, generator_state, make_generator, restore_generator
from qdreamer.agents.replay.sampler import Starts
from qdreamer.agents.replay.signals import PriorityInputs, Signal
from qdreamer.agents.replay.storage import Replay, Sample
from qdreamer.agents.training.imbalance import Imbalance
from qdreamer.envs.entries import field
from qdreamer.worldmodel.model import Batch
from qdreamer.worldmodel.rssm import Carry, Trajectory


class Stopwatch:
    """Adds up the seconds spent per part, until a reader clears them."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += perf_counter() - begin


class AsyncReplayWriter:
    """Brings fresh latents and priorities back into replay without stopping the device.

    `submit` writes at once; or, if `deferred`, starts copies from the GPU as soon as the values are computed,
    which `flush` writes before the next draw and before a checkpoint: by then they have arrived, and the
    backward pass has gone on meanwhile.
    """

    def __init__(self, replay: Replay, deferred: bool) -> None:
        self._replay, self._deferred = replay, deferred
        self._pending: Callable[[], None] | None = None

    def submit(self, starts: Starts, priority: Tensor | None, latents: dict[str, Tensor]) -> None:
        """Write priorities (B,), if there are any, and latents (B, T, ·) of the sequences at `starts`."""
        self.flush()
        copies = {name: _to_host(tensor) for name, tensor in latents.items()}
        errors = None if priority is None else _to_host(priority)
        arrived = None
        if self._deferred and torch.cuda.is_available():
            arrived = torch.cuda.Event()
            arrived.record()

        def write() -> None:
            if arrived is not None:
                arrived.synchronize()
            self._replay.write(starts, {name: copy.numpy() for name, copy in copies.items()})
            if errors is not None:
                self._replay.update(starts, np.asarray(errors.numpy(), np.float32))

        self._pending = write
        if not self._deferred:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


class Learner:
    """Owns the optimizer and the learner's random generator; learns together with the agent's ranks.

    Args:
        replay: this rank's shard. batch_size: B, of all ranks together. forget: see `drop_context`.
        signal: the error of a sequence that the replay's sampler goes by, if it does.
    """

    def __init__(
        self,
        agent: Dreamer,
        optimizer: AgentOptimizer,
        replay: Replay,
        batch_size: int,
        forget: float,
        seed: int,
        signal: Signal | None = None,
    ) -> None:
        self.agent, self.optimizer, self.replay = agent, optimizer, replay
        self.ranks, self.signal, self.forget = agent.ranks, signal, forget
        self.rows = batch_size // self.ranks.size  # this rank's sequences of an update
        self.device = next(agent.parameters()).device
        self.generator = make_generator(self.device, LEARNING, seed)
        self._parameters = {name: list(module.parameters()) for name, module in agent.parts().items()}
        named: dict[str, list[nn.Parameter]] = {}
        for group in optimizer.param_groups:
            if "name" in group:
                named.setdefault(group["name"], []).extend(group["params"])
        self._parameters |= {f"group/{name}": parameters for name, parameters in named.items()}
        self.imbalance = Imbalance(list(named))
        self.updates = 0
        self.watch = Stopwatch()
        self.replay_writer = AsyncReplayWriter(replay, deferred=self.device.type != "cpu")

    def update(self) -> dict[str, Tensor]:
        """Take one gradient step; return scalar metrics as tensors, without waiting for them."""
        self.agent.world_model.rssm.sequence.schedule(self.updates)
        with self.watch("replay"):
            self.replay_writer.flush()
            # A rank weighs its draws by its own shard. Shards are equally large, so the mean over ranks
            # estimates the mean over the whole buffer.
            sample = self.replay.sample(self.rows)
            batch = self.drop_context(self.to_batch(sample))
            self.agent.world_model.obs_normalizer.update(batch.observation, self.ranks.gather)
        outcome = self.agent.loss(batch, self.generator, self.watch)
        with self.watch("replay"):
            self._write_back(sample.starts, batch, outcome)
            mean_features = outcome.trajectory.features.detach().mean(1)  # (B, F)
            metrics = outcome.metrics | {"replay/diversity": diversity(mean_features)}
        with self.watch("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            outcome.total.backward()
            metrics = self.ranks.average(self.agent, metrics)
            norms = self._gradient_norms()
        with self.watch("optimizer"):
            self.optimizer.step(landscape=lambda: self._landscape(batch, outcome.trajectory))
            self.agent.update_averages()
        self.updates += 1
        return metrics | norms

    def _landscape(self, batch: Batch, trajectory: Trajectory) -> WorldModelObjective:
        """Return the world-model loss around the present weights, for an optimizer that searches."""

        def draw(rows: int, random: np.random.Generator) -> Batch:
            return self.to_batch(self.replay.peek(rows, random))

        return WorldModelObjective(self.agent.world_model, batch, trajectory, draw, self.ranks)

    def to_batch(self, sample: Sample) -> Batch:
        """Return replayed rows as tensors on the device, numbers and flags in the agent's type.

        Row −1 gives the first action, and ends the past that the carry comes from.
        """
        rows, past = (
            {name: torch.from_numpy(values).to(self.device) for name, values in part.items()}
            for part in (sample.rows, sample.past)
        )
        dtype = next(self.agent.parameters()).dtype
        flag = {name: rows[name][:, 1:].to(dtype) for name in ("is_first", "is_last", "is_terminal")}
        entries = {name: rows[field(name)][:, 1:] for name in self.agent.observation}
        return Batch(
            observation={n: x.to(dtype) if x.is_floating_point() else x for n, x in entries.items()},
            previous_action=rows["action"][:, :-1].to(dtype),
            reward=rows["reward"][:, 1:].to(dtype),
            weight=torch.from_numpy(sample.weights).to(self.device, dtype),
            carry=self.agent.world_model.rssm.unpack(
                past["state"], past["stoch"], past["action"].to(dtype), past["known"].long() - 1
            ),
            **flag,
        )

    def drop_context(self, batch: Batch) -> Batch:
        """Let a share `forget` of the sequences begin without memory, as an episode does.

        A filter that always starts from a fitting memory comes to over-rely on its recurrent state: on
        motions it never saw it then loses its way, and does not find back.
        """
        first = batch.is_first[:, 0]  # (B,)

        def uniform(count: int, generator: torch.Generator) -> Tensor:
            return first.new_empty(count).uniform_(generator=generator)

        chance = self.ranks.draw(uniform, len(first), generator=self.generator)
        first.masked_fill_(chance < self.forget, 1.0)
        return batch

    @torch.no_grad()
    def _write_back(self, starts: Starts, batch: Batch, outcome: Outcome) -> None:
        """Hand latents (B, T, ·) that fit the current weights, and errors (B,) of sequences, to replay."""
        model, trajectory = self.agent.world_model, outcome.trajectory
        state, stoch = model.rssm.pack(Carry(trajectory.states, trajectory.stoch()))
        found = outcome.losses, batch, trajectory.features, outcome.value, model.config.horizon
        error = None if self.signal is None else self.signal(PriorityInputs(model, *found))
        self.replay_writer.submit(starts, error, {"state": state, "stoch": stoch})

    @torch.no_grad()
    def _gradient_norms(self) -> dict[str, Tensor]:
        """Return ‖g‖ of each module before clipping."""
        gradients = [[p.grad for p in part if p.grad is not None] for part in self._parameters.values()]
        norms = torch.stack(torch._foreach_norm([g for part in gradients for g in part]))
        parts = norms.split([len(part) for part in gradients])
        found = {name: part.norm() for name, part in zip(self._parameters, parts, strict=True)}
        self.imbalance.add(list(found.values())[len(found) - len(self.imbalance.names) :])
        return {f"gradient_norm/{name}": norm for name, norm in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Flush what is on its way into the replay, whose state is therefore to be taken afterwards."""
        self.replay_writer.flush()
        return {
            "agent": self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": generator_state(self.generator),
            "updates": self.updates,
            "imbalance": self.imbalance.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_generator(self.generator, state["generator"])
        self.updates = state["updates"]
        self.imbalance.load_state_dict(state.get("imbalance", []))  # earlier checkpoints have none


@torch.no_grad()
def diversity(mean_features: Tensor) -> Tensor:
    """Return the mean distance between sequences' mean features (B, F), per √F; 0 for one sequence."""
    if len(mean_features) < 2:
        return mean_features.new_zeros(())
    return torch.pdist(mean_features).mean() / mean_features.shape[1] ** 0.5
