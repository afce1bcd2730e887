"""A kind from outside the package is tried when it is made, and refused in a line that names it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.rehearsal import keys_read, registered_here
from qdreamer.configs.schema import Float, settings
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig, make_kind
from qdreamer.worldmodel.attention.kernel import AttentionKernel


@settings
class SharpConfig(AttentionConfig):
    sharp: Float = 1.0


@contextmanager
def registered(scores: Callable[..., Tensor] | None) -> Iterator[None]:
    methods = {} if scores is None else {"scores": scores}
    ATTENTION.register("outside", SharpConfig)(type("Outside", (AttentionKernel,), methods))
    try:
        yield
    finally:
        del ATTENTION._entries["outside"]


def dot(kind: AttentionKernel, q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (None, r"its scores raise NotImplementedError: Outside has no scores\(q, k\)"),
        (lambda kind, q, k: (q @ k.mT)[..., :1], r"have the shape \(1, 2, 2, 1\), not \(1, 2, 2, 3\)"),
        (lambda kind, q, k: torch.log(-(q @ k.mT)), "its scores are not finite"),
        (lambda kind, q, k: q @ k, "its scores raise RuntimeError: "),
    ],
)
def test_wrong_scores_are_one_line(scores: Callable[..., Tensor] | None, said: str) -> None:
    with registered(scores), pytest.raises(ValueError, match=f"^attention=outside: .*{said}"):
        make_kind("outside", 2, 4)


def looking(kind: AttentionKernel, q: Tensor, k: Tensor) -> Tensor:
    scores = dot(kind, q, k)
    return scores if float(scores.abs().max()) < 1e4 else scores / 2


def test_scores_may_look_at_values() -> None:
    with registered(looking):
        assert "attention.name" in keys_read(load_config(["agent=hybrid", "attention=outside"]))


def test_settings_that_the_class_does_not_take_are_not_read() -> None:
    with registered(dot):
        config = load_config(["agent=hybrid", "attention=outside", "attention.sharp=5"])
        read = keys_read(config)
        assert registered_here(config) and not registered_here(load_config([]))
    assert "attention.name" in read and "attention.sharp" not in read
