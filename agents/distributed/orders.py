"""What rank 0 tells the other ranks to do.

Rank 0 alone has environments, evaluations, a log and a run directory. The others hold a copy of
replay and learner and do what they are told: store these rows, make so many updates. So nothing
that only one rank can decide (when the run ends, what the environment answered) has to come out
equally on all of them, and environments need not be deterministic. Signals go the other way, with
the same message: whichever rank receives one, all stop after the same update.
"""

import pickle
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves

from qdreamer.agents.distributed.parallel import Ranks, RanksError, Together
from qdreamer.agents.replay import Replay
from qdreamer.agents.replay.storage import Rows
from qdreamer.agents.training.learner import Learner


class Order(NamedTuple):
    """To be carried out in this sequence."""

    begin: bool = False  # take over rank 0's weights
    rows: tuple[tuple[NDArray[np.int64], Rows], ...] = ()  # to add to the replay buffer
    updates: int = 0  # to make
    verify: bool = False  # compare checksums
    end: bool = False  # leave


class Journal:
    """Stores rows as `Replay` does, and remembers them for the other ranks."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._rows: list[tuple[NDArray[np.int64], Rows]] = []

    def add(self, env: NDArray[np.int64], rows: Rows) -> None:
        self._replay.add(env, rows)
        self._rows.append((env, rows))

    def take(self) -> tuple[tuple[NDArray[np.int64], Rows], ...]:
        """The rows since the last call."""
        rows, self._rows = tuple(self._rows), []
        return rows


class Nobody:
    """The followers of a process that is alone."""

    def __init__(self, learner: Learner) -> None:
        self.store = learner.replay

    def begin(self) -> None:
        """Nobody waits."""

    def learn(self, updates: int, signal: int | None) -> int | None:
        return signal

    def verify(self) -> None:
        """Nothing to compare with."""

    def dismiss(self, signal: int | None) -> None:
        """Nobody waits."""


class Followers:
    """The other ranks as rank 0 sees them. Every method raises RanksError when one of them has ended."""

    def __init__(self, ranks: Together, learner: Learner) -> None:
        self._ranks, self._learner = ranks, learner
        self.store = Journal(learner.replay)

    def begin(self) -> None:
        """Give them the weights. Raises RanksError when they did not load the same checkpoint."""
        self._tell(Order(begin=True, verify=True))
        begin(self._ranks, self._learner)
        verify(self._ranks, self._learner)

    def learn(self, updates: int, signal: int | None) -> int | None:
        """Have them store what was collected and make `updates`; a signal that any rank received."""
        return self._tell(Order(rows=self.store.take(), updates=updates), signal)

    def verify(self) -> None:
        """Raises RanksError when weights, optimizers or random generators have drifted apart."""
        self._tell(Order(verify=True))
        verify(self._ranks, self._learner)

    def dismiss(self, signal: int | None) -> None:
        """Let them go."""
        self._tell(Order(end=True), signal)

    def _tell(self, order: Order, signal: int | None = None) -> int | None:
        _, received = self._ranks.exchange(pickle.dumps(order), signal or 0)
        return received or None


def make_followers(ranks: Ranks, learner: Learner) -> Followers | Nobody:
    return Followers(ranks, learner) if isinstance(ranks, Together) else Nobody(learner)


def receive(ranks: Together, signal: int | None) -> tuple[Order, int | None]:
    """Wait for rank 0's next order; also a signal that any rank received."""
    message, received = ranks.exchange(b"", signal or 0)
    return pickle.loads(message), received or None


def begin(ranks: Together, learner: Learner) -> None:
    """Start from rank 0's weights: other processors may have rounded their initial values otherwise."""
    ranks.connect(learner.device)
    ranks.copy(learner.agent)


def verify(ranks: Together, learner: Learner) -> None:
    """Raises RanksError on all ranks when they are not equal to the last bit."""
    if not ranks.agree(checksum(learner)):
        raise RanksError(
            f"the processes differ after {learner.updates} updates, what was saved before is kept: "
            "all need the same device, the same libraries and the same run directory"
        )


@torch.no_grad()
def checksum(learner: Learner) -> int:
    """Of weights, averages, moments, random generators and the sampler, exact to the last bit."""
    leaves = tree_leaves((learner.state_dict(), learner.replay.sampler.state_dict(), learner.replay.rows))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    rest = [leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)]
    sums = torch.stack([_bits(tensor).sum().cpu() for tensor in tensors])
    places = torch.arange(1, len(sums) + 1)  # equal sums in other places count
    return int((sums * places).sum()) ^ zlib.crc32(repr(rest).encode())


def _bits(tensor: Any) -> Any:
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().view(whole[tensor.element_size()])
