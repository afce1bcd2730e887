"""W processes started by torchrun that train one run together, connected by torch.distributed.

All ranks start from rank 0's weights, and a mean over ranks is formed in one place and handed out (gloo and
NCCL both work so): every rank adds the same bits to the same bits, so that weights stay equal. Where devices
differ from each other that argument ends; therefore checksums are compared at every checkpoint. Gradients
are averaged in one message after the backward pass rather than by DistributedDataParallel: the losses here
are not the `forward` of one module, and the messages are small.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from datetime import timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, RanksError, SingleProcess, T
from qdreamer.configs.console import one_line

TIMEOUT = timedelta(days=7)
"""How long a rank waits for another: rank 0's evaluations may take long. A rank's end is noticed at once."""


class ProcessGroup(SingleProcess):
    """The ranks of a run. Messages between CPUs go through gloo, tensors on GPUs through NCCL."""

    def __init__(self) -> None:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT
        )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._local = int(os.environ["LOCAL_RANK"])

    def device(self, name: str) -> str:
        return f"cuda:{self._local}" if name == "cuda" else name

    def gather(self, rows: Tensor) -> Tensor:
        joint = rows.new_empty(self.size * len(rows), *rows.shape[1:])
        with _collective():
            dist.all_gather_single(joint, rows.detach().contiguous())
        return joint

    def gather_lists(self, items: list[T]) -> list[T]:
        lists: list[list[T]] = [[]] * self.size
        with _collective():
            dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    @torch.no_grad()
    def average(self, module: nn.Module, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        tensors = [*gradients, *scalars.values()]
        means = self.mean(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, mean in zip(tensors, means.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
        return scalars

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        with _collective():
            dist.all_reduce(total)
        return total.div_(self.size)

    def maximum(self, number: int) -> int:
        largest = torch.tensor(number)
        with _collective():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    @torch.no_grad()
    def broadcast(self, module: nn.Module) -> None:
        with _collective():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def check_equal(self, module: nn.Module, step: int) -> None:
        numbers = self.gather(torch.tensor([[_checksum(module), step]]))
        if not bool((numbers == numbers[0]).all()):
            raise RanksError(
                f"the processes differ at step {step}, what was saved before is kept: "
                "all need the same device, the same libraries and the same run directory"
            )

    @contextmanager
    def collective_errors(self) -> Iterator[None]:
        error: Exception | None = None
        with redirect_stderr(StringIO()) if self.rank else nullcontext():  # rank 0 says the same
            try:
                yield
            except Exception as raised:
                error = raised
        message = "" if error is None else one_line(error) or type(error).__name__
        failed = self.gather_lists([(self.rank, message)] if message else [])
        if failed and self.rank > 0:
            sys.exit(2)
        if failed:
            raise error or RanksError(f"rank {failed[0][0]}: {failed[0][1]}")

    def exit(self, code: str | int | None) -> NoReturn:
        """End this process without the interpreter's own way out, once all that is ours is closed and saved.

        That way ends under the running threads of gloo, one of which then aborts the process now and then
        (exit code 134); and destroying the group could wait for a rank that never answers.
        """
        with suppress(OSError, ValueError):  # whoever listened may be gone
            if isinstance(code, str):
                print(code, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(1 if isinstance(code, str) else code or 0)


@cache
def join() -> SingleProcess:
    """Return the ranks that torchrun started this process with, or this process alone.

    From rank 1 on standard output leads nowhere from now on: rank 0 speaks for all.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()) or int(os.environ["WORLD_SIZE"]) == 1:
        return SINGLE_PROCESS
    ranks = ProcessGroup()
    if ranks.rank > 0:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for good)
    return ranks


@contextmanager
def _collective() -> Iterator[None]:
    """Torch answers the end of another rank with many kinds of errors; none of them says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise RanksError(
            "another process of this run has ended; the same command goes on from the last checkpoint"
        ) from error


def _checksum(module: nn.Module) -> int:
    """Return the CRC-32 of all parameters and buffers, exact to the bit."""
    checksum = 0
    for tensor in module.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum
