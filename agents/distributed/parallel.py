"""Ranks: processes that share every update of one run (data parallelism).

Each of the W ranks draws the same B sequences from its own copy of the replay buffer and learns from
B/W of them. What W ranks compute is what one process computes from all B, up to the rounding of sums:

* noise is drawn for all B sequences by generators in the same state, and each rank takes the part
  that belongs to its rows; running moments of the observations are taken of all B;
* percentiles of the returns are taken of all ranks' returns;
* losses are means over rows, and every rank has equally many: the mean of the ranks' gradients is
  the gradient of the joined batch. It comes before clipping, so that the optimizer sees the same;
* fresh latents and priorities of all rows go into every copy of the replay buffer.

All ranks start from rank 0's weights, and a mean over ranks is formed in one place and handed out
(gloo and NCCL both work so): every rank adds the same bits to the same bits. Where devices differ
from each other that argument ends, so a checksum is compared at every checkpoint, see
`agents.distributed.orders`. Gradients are averaged in one message after the backward pass rather than by
DistributedDataParallel: losses here are no `forward` of one module, and the messages are small.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, suppress
from datetime import timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qdreamer.agents.training.config import Config
from qdreamer.configs.strict import ConfigError
from qdreamer.worldmodel.model import Batch

PATIENCE = timedelta(days=7)
"""How long a rank waits for another: rank 0's evaluations may take long. An end is noticed at once."""


class RanksError(RuntimeError):
    """The ranks cannot go on together; one line."""


class Ranks(Protocol):
    """What a learner needs to know of the other ranks."""

    rank: int
    size: int  # W

    def check(self, config: Config) -> None:
        """Raises ConfigError for settings that these ranks cannot share."""
        ...

    def device(self, name: str) -> str:
        """This rank's own device, for the setting `device`."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """A context that all ranks leave, or none: an error on any rank ends all, and rank 0 tells it.

        No messages may be exchanged inside.
        """
        ...

    def draw(
        self,
        noise: Callable[..., Tensor],
        *shape: int,
        generator: torch.Generator | None = None,
        dim: int = 0,
    ) -> Tensor:
        """noise(*shape), this rank's part of what is drawn for all ranks side by side along `dim`."""
        ...

    def share(self, batch: Batch) -> Batch:
        """This rank's B/W sequences of B."""
        ...

    def gather(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The rows of all ranks, (R, …) → (W·R, …), without gradients; one message for all parts."""
        ...

    def average(self, module: nn.Module, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace the module's gradients by their means over ranks; the means of the scalars."""
        ...


class Alone:
    """One process: everything is already there."""

    rank, size = 0, 1

    def check(self, config: Config) -> None:
        """Everything goes."""

    def device(self, name: str) -> str:
        return name

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def draw(
        self,
        noise: Callable[..., Tensor],
        *shape: int,
        generator: torch.Generator | None = None,
        dim: int = 0,
    ) -> Tensor:
        return noise(*shape, generator=generator)

    def share(self, batch: Batch) -> Batch:
        return batch

    def gather(self, *parts: Tensor) -> tuple[Tensor, ...]:
        return parts

    def average(self, module: nn.Module, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        return scalars

    def leave(self) -> None:
        """Nobody notices."""

    def quit(self, end: SystemExit) -> NoReturn:
        """As any process does."""
        raise end


ALONE = Alone()


class Together:
    """W processes, started by torchrun.

    Two groups: gloo, between the CPUs, for orders and errors; and for tensors one that fits the
    device, NCCL between GPUs.
    """

    def __init__(self) -> None:
        dist.init_process_group("gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._local = int(os.environ["LOCAL_RANK"])
        self._tensors: dist.ProcessGroup | None = None

    def check(self, config: Config) -> None:
        rows = config.train.batch_size
        if rows % self.size:
            near = max(rows // self.size, 1) * self.size
            raise ConfigError(
                f"train.batch_size={rows} cannot be shared by {self.size} processes: "
                f"use a multiple, as train.batch_size={near}"
            )
        if config.replay.name == "quantum" and config.quantum.name != "statevector":
            raise ConfigError(
                f"replay=quantum on quantum={config.quantum.name} draws differently in each of {self.size} "
                "processes: use quantum=statevector, or one process"
            )
        if config.optimizer.name == "hybrid":
            raise ConfigError(
                f"optimizer=hybrid searches on one process's batch, not on {self.size}: use optimizer=laprop"
            )
        if config.replay.mapped:
            raise ConfigError(f"replay.mapped=true is one file for {self.size} processes: use false")
        if config.device.startswith("cuda:"):
            raise ConfigError(
                f"device={config.device} is one GPU for {self.size} processes: use device=cuda, one for each"
            )

    def device(self, name: str) -> str:
        return f"cuda:{self._local}" if name == "cuda" else name

    @contextmanager
    def together(self) -> Iterator[None]:
        error: Exception | None = None
        with redirect_stderr(StringIO()) if self.rank else nullcontext():  # rank 0 says the same
            try:
                yield
            except Exception as raised:
                error = raised
        messages: list[str | None] = [None] * self.size
        with _talking():
            dist.all_gather_object(messages, None if error is None else _line(error))
        failed = [rank for rank, message in enumerate(messages) if message is not None]
        if not failed:
            return
        if self.rank > 0:
            sys.exit(2)
        raise error or RanksError(f"rank {failed[0]}: {messages[failed[0]]}")

    def connect(self, device: torch.device) -> None:
        """Open the group for tensors on `device`; all ranks at the same time."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
            if self._tensors is None:
                self._tensors = dist.new_group(backend="nccl")

    def draw(
        self,
        noise: Callable[..., Tensor],
        *shape: int,
        generator: torch.Generator | None = None,
        dim: int = 0,
    ) -> Tensor:
        whole = [n * self.size if i == dim else n for i, n in enumerate(shape)]
        return self._own(noise(*whole, generator=generator), dim)

    def share(self, batch: Batch) -> Batch:
        fields = (field.name for field in dataclasses.fields(batch))
        return Batch(**{name: tree_map(self._own, getattr(batch, name)) for name in fields})

    def gather(self, *parts: Tensor) -> tuple[Tensor, ...]:
        rows = len(parts[0])
        # As bytes, tensors of different types fit into one message.
        columns = [part.detach().reshape(rows, math.prod(part.shape[1:])).view(torch.uint8) for part in parts]
        own = torch.cat(columns, 1)
        everything = own.new_empty(self.size * rows, own.shape[1])
        with _talking():
            dist.all_gather_single(everything, own, group=self._tensors)
        found = everything.split([column.shape[1] for column in columns], 1)
        return tuple(
            column.contiguous().view(part.dtype).view(len(column), *part.shape[1:])
            for column, part in zip(found, parts, strict=True)
        )

    @torch.no_grad()
    def average(self, module: nn.Module, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        parameters = [p for p in module.parameters() if p.grad is not None]
        means = self._means([p.grad for p in parameters if p.grad is not None] + list(scalars.values()))
        for parameter, mean in zip(parameters, means, strict=False):
            parameter.grad = mean
        return dict(zip(scalars, means[len(parameters) :], strict=True))

    def copy(self, module: nn.Module) -> None:
        """Rank 0's parameters and buffers for all ranks."""
        with torch.no_grad(), _talking():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0, group=self._tensors)

    def exchange(self, message: bytes, signal: int) -> tuple[bytes, int]:
        """Rank 0's message, and the largest of all ranks' signals."""
        header = torch.tensor([len(message), signal])
        with _talking():
            dist.all_reduce(header, dist.ReduceOp.MAX)
            length, signal = header.tolist()
            buffer = torch.empty(length, dtype=torch.uint8)
            if length == 0:
                return b"", signal
            if self.rank == 0:
                buffer = torch.frombuffer(bytearray(message), dtype=torch.uint8)
            dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes(), signal

    def agree(self, number: int) -> bool:
        """Whether all ranks have the same number."""
        numbers = torch.empty(self.size, dtype=torch.int64)
        with _talking():
            dist.all_gather_single(numbers, torch.tensor([number]))
        return bool((numbers == number).all())

    def leave(self) -> None:
        """The last thing that all ranks do together."""
        dist.destroy_process_group()

    def quit(self, end: SystemExit) -> NoReturn:
        """End this process, whatever the others do; all that is ours has been closed and saved.

        The interpreter's own way out would end under the groups' running threads: one of twenty such
        exits was an abort by one of them. And `leave` could wait for a rank that never answers.
        """
        code = end.code
        if code is not None and not isinstance(code, int):
            with suppress(OSError, ValueError):
                print(code, file=sys.stderr)
            code = 1
        with suppress(OSError, ValueError):  # whoever listened may be gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)

    def _own(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This rank's rows of all; what has no rows is everybody's."""
        if not whole.dim():
            return whole
        rows = whole.shape[dim] // self.size
        return whole.narrow(dim, self.rank * rows, rows)

    def _means(self, tensors: list[Tensor]) -> list[Tensor]:
        """Means over ranks, by one message."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _talking():
            dist.all_reduce(flat, group=self._tensors)
        parts = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        return [part.view_as(like).to(like.dtype) for part, like in zip(parts, tensors, strict=True)]


@cache
def join() -> Alone | Together:
    """The ranks that torchrun started this process with, or this one alone. From rank 1 on nothing is
    printed any more: rank 0 speaks for all."""
    if not (dist.is_available() and dist.is_torchelastic_launched()) or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    ranks = Together()
    if ranks.rank > 0:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for good)
    return ranks


@contextmanager
def _talking() -> Iterator[None]:
    """torch answers the end of another rank with many kinds of errors; none of them says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise RanksError(
            "another process of this run has ended; the same command goes on from the last checkpoint"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
