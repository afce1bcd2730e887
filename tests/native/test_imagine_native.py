"""RolloutState futures in C against the torch code that they stand in for."""

import pytest
import torch
from torch.testing import assert_close

from qdreamer.native import kernels
from qdreamer.native.imagine_native import SLOTS, NativeRolloutState
from qdreamer.worldmodel.sequence_models.interface import make_sequence
from qdreamer.worldmodel.sequence_models.transformer import RolloutState, Transformer

pytestmark = pytest.mark.usefixtures("compiled")

BATCH, STEPS, STOCH, ACTION = 3, 24, 20, 2
COMMON = ("sequence=transformer", "world_model.width=48")
SETTINGS = {
    "softmax": ("attention=softmax", "sequence.heads=2", "sequence.head=8"),
    "coherent": ("attention=coherent", "sequence.heads=2", "sequence.head=32", "sequence.layers=2"),
    "coherent-odd": ("attention=coherent", "sequence.heads=3", "sequence.head=20", "sequence.hidden=50"),
    "coherent-window": ("attention=coherent", "sequence.head=16", "sequence.window=6"),
    "coherent-curriculum": ("attention=coherent", "attention.curriculum.length=1"),
    "uniform": ("attention=uniform",),
    "random-keys": ("attention=random_keys",),
    "sampled": ("attention=sampled", "sequence.heads=2", "sequence.head=16"),
    "born": ("attention=born", "sequence.heads=4", "sequence.head=8", "sequence.layers=2"),
    "born-wide": ("attention=born", "sequence.heads=2", "sequence.head=16"),
    "born-odd": ("attention=born", "sequence.heads=3", "sequence.head=6", "attention.decay=false"),
    "born-complex": ("attention=born", "sequence.heads=2", "sequence.head=8", "attention.complex=true"),
    "born-complex-odd": (
        *("attention=born", "sequence.heads=2", "sequence.head=12"),
        *("attention.complex=true", "attention.decay=false", "attention.floor=0.1"),
    ),
}


@pytest.fixture
def make(make_config):
    """`make(settings…)`: a transformer, all parameters random."""

    def build(*settings):
        config = make_config(*COMMON, *settings)
        torch.manual_seed(0)
        model = make_sequence(config.sequence, config.attention, STOCH, ACTION)
        assert isinstance(model, Transformer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return build


def observed(model, dtype=torch.float32):
    """What observing leaves behind, with a past before it and resets inside."""
    generator = torch.Generator().manual_seed(3)
    state = model.initial(BATCH)
    for steps in (7, STEPS):
        stoch = torch.softmax(3.0 * torch.randn(BATCH, steps, STOCH, generator=generator), -1)
        action = torch.randn(BATCH, steps, ACTION, generator=generator)
        is_first = torch.zeros(BATCH, steps)
        is_first[1, steps // 2] = is_first[2, -4] = 1.0
        _, states = model.observe(stoch.to(dtype), action.to(dtype), is_first.to(dtype), state)
        state = model.last(states)
    return states


def imagined(model, states, b, t, steps=SLOTS + 3):
    """h (steps, N, D) of futures, and the state that they began with."""
    generator = torch.Generator().manual_seed(4)
    futures = t.numel()
    state = begin = model.select(states, b, t)
    h = []
    for step in range(steps):
        stoch = torch.nn.functional.one_hot(torch.randint(5, (futures, STOCH // 5), generator=generator), 5)
        if step % 3 == 1:  # mixtures of classes count as well
            stoch = torch.softmax(torch.randn(futures, STOCH // 5, 5, generator=generator), -1)
        action_embedding = model.action_embedding(
            torch.randn(futures, ACTION, generator=generator).to(model.norm.scale), None
        )
        h_t, state = model.step(stoch.flatten(1).to(action_embedding), action_embedding, None, state)
        h.append(h_t.clone())
    return torch.stack(h), begin


STARTS = {
    "last 8": (None, torch.arange(STEPS - 8, STEPS).expand(BATCH, -1)),
    "all": (None, torch.arange(STEPS).expand(BATCH, -1)),
    "six": (None, torch.tensor([[3, 4, 5, 6, 7, 8], [20, 1, 12, 11, 0, 23], [9, 9, 9, 9, 9, 9]])),
    "anywhere": (torch.tensor([2, 0, 1, 1, 2]), torch.tensor([5, 23, 0, 11, 22])),
}


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_equals_torch(make, name, starts):
    model = make(*SETTINGS[name])
    b, t = STARTS[starts]
    states = observed(model)
    plain, begin = imagined(model, states, b, t)
    assert isinstance(begin, RolloutState)
    kernels.use(True)
    try:
        fused, begin = imagined(model, states, b, t)
    finally:
        kernels.use(False)
    assert isinstance(begin, NativeRolloutState)
    error = (fused - plain).norm(dim=-1) / plain.norm(dim=-1)
    assert error.max() < 1e-5
    assert_close(fused, plain, rtol=1e-5, atol=3e-5)  # two float32 sums in different orders


@pytest.mark.parametrize("attention", ["coherent", "born"])
def test_gradients_and_mixtures_take_torch(make, attention):
    model = make(f"attention={attention}")
    mixed = make(f"attention={attention}", "attention.curriculum.last=0.5")
    mixed.schedule(1)
    b, t = STARTS["last 8"]
    kernels.use(True)
    try:
        with torch.no_grad():
            futures = model.select(observed(model), b, t)
            assert isinstance(mixed.select(observed(mixed), b, t), RolloutState)
        assert isinstance(model.select(observed(model), b, t), RolloutState)
        stoch, action_embedding = torch.zeros(t.numel(), STOCH), torch.zeros(t.numel(), 48)
        with pytest.raises(ValueError, match="record no gradients"):
            model.step(stoch, action_embedding, None, futures)
    finally:
        kernels.use(False)
