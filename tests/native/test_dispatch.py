"""Which implementation of a kernel runs."""

import pytest
import torch

from qdreamer import native
from qdreamer.native.dispatch import Kernel

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def make_kernel(monkeypatch):
    monkeypatch.setattr("qdreamer.native.dispatch.KERNELS", dict(native.KERNELS))
    return lambda: Kernel("test", lambda x: "torch", lambda x: "C", native.fits)


def test_c_runs_where_it_is_wanted_and_knows_the_arguments(make_kernel):
    kernel, x = make_kernel(), torch.zeros(2, 3)
    assert kernel(x) == "torch"
    native.use(True)
    assert native.on()
    assert kernel(x) == "C"
    assert kernel(x.double()) == kernel(x.t()) == kernel(x.to("meta")) == "torch"
    native.use(False)
    assert kernel(x) == "torch"


def test_kernels_are_switched_off_one_by_one(make_kernel):
    kernel, x = make_kernel(), torch.zeros(2, 3)
    native.use(True)
    with native.without("test"):
        with native.without("two_hot"):
            assert kernel(x) == "torch"
        assert kernel(x) == "torch"
    with native.without("two_hot"):
        assert kernel(x) == "C"
    assert kernel(x) == "C"
    with pytest.raises(RuntimeError), native.without("test"):
        raise RuntimeError
    assert kernel(x) == "C"
    with pytest.raises(KeyError), native.without("no such kernel"):
        pass
