"""How many of the processor's cores a process may use."""

import os

import torch


def usable_cores() -> int:
    """Return the cores that this process is bound to, or what OMP_NUM_THREADS says if that is less."""
    everywhere = os.cpu_count() or 1  # macOS and Windows bind no process
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list names nested levels
    return min(bound, int(said)) if said.isdigit() and int(said) else bound


def use_threads(most: int) -> None:
    """Let torch, and our kernels with it, run on `most` threads, or on as many as there are cores."""
    torch.set_num_threads(min(most, usable_cores()))
