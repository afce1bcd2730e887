"""What every sequence model and both posteriors promise, as property tests in float64.

`observe` equals folding it, and folding `step`; nothing crosses an episode boundary; a change at
time t alters nothing before t. Noise is fixed, so that draws are a function of the inputs.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from worldmodel.model import WorldModel
from worldmodel.rssm import Carry

BATCH, STEPS, OBSERVATION, ACTION = 3, 6, 4, 2
KINDS = [("coupled", 1), ("coupled", 4), ("decoupled", 1), ("decoupled", 4)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

seeds = st.integers(0, 2**31 - 1)
resets = st.lists(
    st.lists(st.booleans(), min_size=STEPS, max_size=STEPS), min_size=BATCH, max_size=BATCH
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))
times = st.integers(0, STEPS - 1)


@pytest.fixture(scope="module")
def models(make_config):
    """World models by (posterior, blocks), all parameters random."""
    built = {}
    for posterior, blocks in KINDS:
        config = make_config(
            *("world_model.units=8", "world_model.hidden=8", "world_model.deter=16"),
            *("world_model.stoch=3", "world_model.classes=4", "world_model.bins=11"),
            *(f"world_model.posterior={posterior}", f"world_model.blocks={blocks}"),
        )
        assert config.sequence.blocks == blocks
        torch.manual_seed(blocks)
        model = WorldModel(config.world_model, config.sequence, OBSERVATION, False, ACTION).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        built[posterior, blocks] = model
    return built


def random_inputs(model, seed, is_first):
    """Arguments of `observe`: observation, action, is_first, carry, noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    index = torch.randint(4, (BATCH, 3), generator=generator)
    stoch = torch.nn.functional.one_hot(index, 4).double().flatten(1)
    carry = Carry(torch.tanh(normal(BATCH, 16)), stoch)
    noise = model.rssm.noise(BATCH, STEPS, generator=generator)
    return [normal(BATCH, STEPS, OBSERVATION), normal(BATCH, STEPS, ACTION), is_first, carry, noise]


def observe(model, inputs):
    """Everything `observe` returns per step (B, T, ·), and the carry's tensors."""
    trajectory, carry = model.observe(*inputs)
    return [trajectory.features, trajectory.posterior, trajectory.prior, trajectory.states], list(carry)


def part(inputs, start, end, carry):
    """The inputs of steps start … end − 1."""
    observation, action, is_first, _, noise = inputs
    return [
        observation[:, start:end],
        action[:, start:end],
        is_first[:, start:end],
        carry,
        noise[:, start:end],
    ]


def replace(inputs, others, steps):
    """`inputs` with the `steps` (a slice) of all per-step inputs but is_first from `others`."""
    changed = [x if isinstance(x, Carry) else x.clone() for x in inputs]
    for i in (0, 1, 4):
        changed[i][:, steps] = others[i][:, steps]
    return changed


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, resets, st.sets(st.integers(1, STEPS - 1)))
def test_observe_equals_folding_it(models, kind, seed, is_first, splits):
    model = models[kind]
    inputs = random_inputs(model, seed, is_first)
    whole, last = observe(model, inputs)
    for cuts in (sorted(splits), range(1, STEPS)):  # random parts, single steps
        carry, parts = inputs[3], []
        for start, end in zip([0, *cuts], [*cuts, STEPS], strict=True):
            outputs, tensors = observe(model, part(inputs, start, end, carry))
            carry = Carry(*tensors)
            parts.append(outputs)
        folded = [torch.cat(pieces, 1) for pieces in zip(*parts, strict=True)]
        assert_close(folded, whole, **CLOSE)
        assert_close(list(carry), last, **CLOSE)


@pytest.mark.parametrize("blocks", [1, 4])
@given(seeds, resets)
def test_sequence_observe_equals_folding_step(models, blocks, seed, is_first):
    model = models["decoupled", blocks]
    sequence = model.rssm.sequence
    _, action, _, carry, _ = random_inputs(model, seed, is_first)
    stoch = torch.softmax(
        torch.randn(BATCH, STEPS, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), -1
    )
    h, states, last = sequence.observe(stoch, action, is_first, carry.state)
    drive, state = sequence.drive(action, is_first), carry.state
    rows = torch.arange(BATCH)
    for t in range(STEPS):
        h_t, state = sequence.step(stoch[:, t], drive[:, t], is_first[:, t], state)
        assert_close(h[:, t], h_t, **CLOSE)
        assert_close(sequence.select(states, rows, torch.full((BATCH,), t)), state, **CLOSE)
    assert_close(last, state, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, resets)
def test_imagination_continues_the_trajectory(models, kind, seed, is_first):
    """Within an episode, the prior's step from step t gives the h and the prior of step t + 1."""
    model = models[kind]
    is_first[:, -1] = 0.0
    inputs = random_inputs(model, seed, is_first)
    trajectory, _ = model.observe(*inputs)
    b, t = torch.arange(BATCH), torch.full((BATCH,), STEPS - 2)
    features, carry = model.rssm.start(trajectory, b, t)
    assert torch.equal(features, trajectory.features[:, -2])
    imagined, after = model.rssm.imagine(
        model.rssm.sequence.drive(inputs[1][:, -1], None), carry, inputs[4][:, -1]
    )
    assert_close(imagined[:, :16], trajectory.features[:, -1, :16], **CLOSE)
    assert torch.equal(after.stoch, imagined[:, 16:])
    assert torch.equal(after.stoch.view(BATCH, 3, 4).sum(-1), torch.ones(BATCH, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, resets, times)
def test_nothing_crosses_an_episode_boundary(models, kind, seed, is_first, start):
    model = models[kind]
    is_first[:, start] = 1.0
    inputs = random_inputs(model, seed, is_first)
    others = random_inputs(model, seed + 1, is_first)
    changed = replace(inputs, others, slice(0, start))
    changed[1][:, start] = others[1][:, start]  # the action that led here belongs to the past
    changed[2] = is_first.clone()
    changed[2][:, :start] = 1.0 - is_first[:, :start]
    changed[3] = others[3]
    (before, last), (after, last_after) = observe(model, inputs), observe(model, changed)
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x[:, start:], y[:, start:])
        if start:
            assert not torch.equal(x[:, :start], y[:, :start])
    for x, y in zip(last, last_after, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, resets, times)
def test_causality(models, kind, seed, is_first, time):
    model = models[kind]
    inputs = random_inputs(model, seed, is_first)
    changed = replace(inputs, random_inputs(model, seed + 1, is_first), slice(time, None))
    changed[2] = is_first.clone()
    changed[2][:, time:] = 1.0 - is_first[:, time:]
    before, after = observe(model, inputs)[0], observe(model, changed)[0]
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x[:, :time], y[:, :time])
    assert not torch.equal(before[0][:, time:], after[0][:, time:])


def gradients(model, inputs, steps):
    """Gradients of a random function of the outputs at `steps` with respect to
    observation, action, carried state and carried latent."""
    observation, action, is_first, carry, noise = inputs
    leaves = [x.clone().requires_grad_() for x in (observation, action, *carry)]
    outputs, _ = observe(model, [leaves[0], leaves[1], is_first, Carry(*leaves[2:]), noise])
    generator = torch.Generator().manual_seed(0)
    total = sum(
        (x[:, steps] * torch.randn(x[:, steps].shape, dtype=x.dtype, generator=generator)).sum()
        for x in outputs
    )
    return torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, resets, times)
def test_gradients_do_not_cross_an_episode_boundary(models, kind, seed, is_first, start):
    model = models[kind]
    is_first[:, start] = 1.0
    inputs = random_inputs(model, seed, is_first)
    observation, action, state, stoch = gradients(model, inputs, slice(start, None))
    assert not observation[:, :start].any()
    assert not action[:, : start + 1].any()
    assert not state.any()
    assert not stoch.any()
    assert observation[:, start:].any()


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, times)
def test_gradients_flow_within_an_episode_and_only_backwards_in_time(models, kind, seed, time):
    model = models[kind]
    inputs = random_inputs(model, seed, torch.zeros(BATCH, STEPS, dtype=torch.float64))
    observation, action, state, stoch = gradients(model, inputs, slice(time, time + 1))
    assert observation[:, : time + 1].flatten(2).any(-1).all()
    assert action[:, : time + 1].flatten(2).any(-1).all()
    assert state.any(-1).all()
    assert stoch.any(-1).all()
    assert not observation[:, time + 1 :].any()
    assert not action[:, time + 1 :].any()
