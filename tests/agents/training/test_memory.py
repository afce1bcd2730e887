"""Freed memory stays with the process, and what set-up has made is not looked through again."""

import ctypes
import gc
import subprocess
import sys

import pytest

from qdreamer.agents.training.memory import set_up_is_no_garbage

MEASURE = """
import resource, sys, torch
from qdreamer.agents.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for i in range(12):
    if i == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(k * 2**20) for k in (1, 10, 4, 2)]  # up to 40 MiB
    del tensors  # freed together, as at the end of an update
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(argument: str) -> int:
    command = [sys.executable, "-c", MEASURE, argument]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.processes
def test_large_tensors_are_not_mapped_afresh() -> None:
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    assert page_faults("default") > 10 * (page_faults("keep") + 10)


def test_set_up_is_left_alone_by_the_collector_meanwhile() -> None:
    with pytest.raises(KeyError), set_up_is_no_garbage():
        assert gc.get_freeze_count() > 0
        raise KeyError
    assert gc.get_freeze_count() == 0
