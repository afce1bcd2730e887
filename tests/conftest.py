"""Shared fixtures."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.config import Config
from qdreamer.configs.registry import Registry
from qdreamer.native import library, products

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = (
    "1"  # runs in tests take no more (`agents.runs.cores`); several tests run at a time
)
settings.register_profile("qdreamer", deadline=None, max_examples=30)
settings.load_profile("qdreamer")


@pytest.fixture(autouse=True)
def as_before_a_run() -> Iterator[None]:
    """Runs switch kernels, precision and the flushing of denormal numbers for the whole process."""
    yield
    native.use(False)
    products.use_bfloat16(False)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def signals_as_usual() -> None:
    """Under nohup or in the background some are ignored, as a run then does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def full_disk() -> AbstractContextManager[None]:
    """A context in which no file of this process grows: EFBIG stands for "No space left on device"."""
    resource = pytest.importorskip("resource")  # not on Windows

    @contextmanager
    def full() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full()


@pytest.fixture
def registries_as_before() -> Iterator[None]:
    """For what registers parts of its own: they are forgotten afterwards."""
    found = [thing for thing in gc.get_objects() if type(thing) is Registry]
    before = [(registry, registry.names(), dict(registry._entries)) for registry in found]
    yield
    for registry, _, entries in before:
        registry._entries = entries


@pytest.fixture(scope="session")
def compiled() -> None:
    """Tests of the kernels are skipped where there is no C compiler."""
    try:
        library.find_compiler()
    except library.CompileError as error:
        pytest.skip(str(error))
    native.use(True)
    native.use(False)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread, then two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """`make_config("group.key=value", …)` composes and checks one run's config."""

    def make(*overrides: str) -> Config:
        return load_config(list(overrides))

    return make


@pytest.fixture(scope="session")
def chi_square_p() -> Callable[[Any, Any], float]:
    """p-value of Pearson's test that `counts` were drawn from the probabilities `probs`."""

    def p_value(counts: Any, probs: Any) -> float:
        counts, probs = np.asarray(counts, np.float64), np.asarray(probs, np.float64)
        expected = counts.sum() * probs / probs.sum()
        statistic = ((counts - expected) ** 2 / expected).sum()
        half = torch.tensor([(len(counts) - 1) / 2, statistic / 2], dtype=torch.float64)
        return float(torch.special.gammaincc(half[0], half[1]))

    return p_value
