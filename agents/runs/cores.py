"""How many of the processor's cores a process may use."""

import os
from pathlib import Path

import torch

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's processor time, or "max", and the period in which it may be spent."""


def usable_cores(processes: int = 1) -> int:
    """Return the cores that each of so many processes of this machine may use, at least 1.

    They share out those that this process is bound to, or has by its container's quota. OMP_NUM_THREADS is
    what each of them may take at most.
    """
    everywhere = os.cpu_count() or 1  # macOS and Windows bind no process
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    if QUOTA.is_file():
        quota, period = QUOTA.read_text().split()
        bound = min(bound, max(1, int(quota) // int(period))) if quota.isdecimal() else bound
    share = max(1, bound // processes)
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list names nested levels
    return min(share, int(said)) if said.isdecimal() and int(said) else share


def use_threads(most: int) -> None:
    """Let torch, and our kernels with it, run on `most` threads, or on as many as there are cores."""
    torch.set_num_threads(min(most, usable_cores()))
