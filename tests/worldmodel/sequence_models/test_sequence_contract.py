"""What every sequence model and both posteriors promise, as property tests in float64.

`observe` equals folding it, and folding `step`; nothing crosses an episode boundary; a change at
time t alters nothing before t. Noise is fixed, so that draws are a function of the inputs.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.envs.entries import Vector
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.networks.categorical import sample_straight_through
from qdreamer.worldmodel.rssm import Carry
from qdreamer.worldmodel.sequence_models.gru import BlockGRU
from qdreamer.worldmodel.sequence_models.interface import leaves, rebuild

BATCH, STEPS, OBSERVATION, ACTION = 3, 6, 4, 2
WINDOW = 4
GRU = ("sequence=gru", "world_model.deter=16")
TRANSFORMER = (
    "sequence=transformer",
    "world_model.width=16",
    "sequence.heads=4",
    "sequence.head=4",
    "sequence.layers=2",
    f"sequence.window={WINDOW}",
)
MEMORY = (
    *("sequence=gru_attention", "world_model.core=16", "world_model.blocks=1", "world_model.memory=8"),
    *("sequence.head=4", f"sequence.window={WINDOW}"),
)
CURRICULUM = "attention.curriculum.last=0.5"
SETTINGS = {
    "gru": (*GRU, "world_model.blocks=1"),
    "gru-blocks": (*GRU, "world_model.blocks=4"),
    "gru-decoupled": (*GRU, "world_model.posterior=decoupled", "world_model.blocks=1"),
    "gru-decoupled-blocks": (*GRU, "world_model.posterior=decoupled", "world_model.blocks=4"),
    "softmax": (*TRANSFORMER, "attention=softmax"),
    "coherent": (*TRANSFORMER, "attention=coherent"),
    "coherent-mixed": (*TRANSFORMER, "attention=coherent", CURRICULUM),
    "uniform": (*TRANSFORMER, "attention=uniform"),
    "born": (*TRANSFORMER, "attention=born"),
    "born-complex": (*TRANSFORMER, "attention=born", "attention.complex=true", "attention.decay=false"),
    "ffm": (*TRANSFORMER, "attention=ffm", "attention.frequencies=2"),
    "born-mixed": (*TRANSFORMER, "attention=born", CURRICULUM),
    "memory-softmax": (*MEMORY, "attention=softmax"),
    "memory-coherent": (*MEMORY, "attention=coherent"),
    "memory-coherent-decoupled": (*MEMORY, "attention=coherent", "world_model.posterior=decoupled"),
    "memory-coherent-mixed": (*MEMORY, "attention=coherent", CURRICULUM),
    "memory-born": (*MEMORY, "attention=born"),
    "memory-ffm": (*MEMORY, "attention=ffm"),
}
KINDS = list(SETTINGS)
MEMORIES = [name for name in KINDS if name.startswith("memory")]
DECOUPLED = [name for name in KINDS if name not in ("gru", "gru-blocks", *MEMORIES)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
FEW = settings(max_examples=10)  # an example of these takes a tenth of a second

seeds = st.integers(0, 2**31 - 1)
resets = st.lists(
    st.lists(st.booleans(), min_size=STEPS, max_size=STEPS), min_size=BATCH, max_size=BATCH
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))
times = st.integers(0, STEPS - 1)


@pytest.fixture(scope="module")
def models(make_config):
    """World models by name, all parameters random."""
    built = {}
    for name, words in SETTINGS.items():
        config = make_config(
            *("world_model.units=8", "world_model.hidden=8"),
            *("world_model.stoch=3", "world_model.classes=4", "world_model.bins=11"),
            *words,
        )
        torch.manual_seed(1)
        model = WorldModel(
            config.world_model,
            config.sequence,
            config.attention,
            {"observation": Vector(OBSERVATION)},
            ACTION,
        ).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.rssm.sequence.schedule(1)
        built[name] = model
    return built


def random_inputs(model, seed, is_first):
    """Arguments of `observe`: observation, action, is_first, carry, noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    index = torch.randint(4, (BATCH, 3), generator=generator)
    stoch = torch.nn.functional.one_hot(index, 4).double().flatten(1)
    carry = random_carry(model, normal, stoch)
    noise = model.rssm.noise(BATCH, STEPS, generator=generator)
    return [normal(BATCH, STEPS, OBSERVATION), normal(BATCH, STEPS, ACTION), is_first, carry, noise]


def random_carry(model, normal, stoch):
    """A carry with more past than a window holds: what replay kept, or a transformer's keys and values."""
    sequence, steps = model.rssm.sequence, WINDOW + 1
    if isinstance(sequence, BlockGRU):
        past = normal(BATCH, steps, 3, 4).argmax(-1)
        h, segments = torch.tanh(normal(BATCH, steps, 16)), torch.zeros(BATCH, steps, dtype=torch.long)
        segments[0, :-1] = -1  # rows of another episode, within the window too
        memory = sequence.memory.stored(h, past, normal(BATCH, steps, ACTION), segments)
        return Carry(h[:, -1], stoch, memory)
    first = torch.zeros(BATCH, steps, dtype=torch.float64)
    with torch.no_grad():
        arguments = normal(BATCH, steps, 12), normal(BATCH, steps, ACTION), first
        return Carry(sequence.last(sequence.observe(*arguments, sequence.initial(BATCH))[1]), stoch)


def seen(model, inputs):
    """The trajectory of the world model."""
    return model.observe({"observation": inputs[0]}, *inputs[1:])


def observe(model, inputs):
    """Everything `observe` returns per step (B, T, ·), and the carry."""
    trajectory = seen(model, inputs)
    outputs = [trajectory.features, trajectory.posterior, trajectory.prior]
    return outputs, model.rssm.last(trajectory)


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
@FEW
@given(seeds, resets, st.sets(st.integers(1, STEPS - 1)))
def test_observe_equals_folding_it(models, kind, seed, is_first, splits):
    model = models[kind]
    inputs = random_inputs(model, seed, is_first)
    whole, last = observe(model, inputs)
    for cuts in (sorted(splits), range(1, STEPS)):  # random parts, single steps
        carry, parts = inputs[3], []
        for start, end in zip([0, *cuts], [*cuts, STEPS], strict=True):
            outputs, carry = observe(model, part(inputs, start, end, carry))
            parts.append(outputs)
        folded = [torch.cat(pieces, 1) for pieces in zip(*parts, strict=True)]
        assert_close(folded, whole, **CLOSE)
        assert_close(leaves(carry), leaves(last), **CLOSE)


@pytest.mark.parametrize("kind", DECOUPLED)
@FEW
@given(seeds, resets)
def test_sequence_observe_equals_folding_step(models, kind, seed, is_first):
    model = models[kind]
    sequence = model.rssm.sequence
    _, action, _, carry, _ = random_inputs(model, seed, is_first)
    stoch = torch.softmax(
        torch.randn(BATCH, STEPS, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), -1
    )
    h, states = sequence.observe(stoch, action, is_first, carry.state)
    action_embedding, state = sequence.action_embedding(action, is_first), carry.state
    rows = torch.arange(BATCH)
    for t in range(STEPS):
        h_t, state = sequence.step(stoch[:, t], action_embedding[:, t], is_first[:, t], state)
        assert_close(h[:, t], h_t, **CLOSE)
        if isinstance(sequence, BlockGRU):
            assert_close(sequence.select(states, rows, torch.full((BATCH,), t)), state, **CLOSE)
    assert_close(leaves(sequence.last(states)), leaves(state), **CLOSE)


@pytest.mark.parametrize("kind", DECOUPLED)
@FEW
@given(seeds, resets, st.lists(times, min_size=2, max_size=2))
def test_futures_equal_folding_step(models, kind, seed, is_first, starts):
    """Imagined futures that share their row's past go on as if each had its own; further than the window."""
    model = models[kind]
    sequence = model.rssm.sequence
    _, action, _, carry, _ = random_inputs(model, seed, is_first)
    generator = torch.Generator().manual_seed(seed)
    futures, steps = 2, WINDOW + 3
    stoch, later = (
        torch.softmax(torch.randn(*shape, 12, dtype=torch.float64, generator=generator), -1)
        for shape in ((BATCH, STEPS), (steps, BATCH * futures))
    )
    moves = torch.randn(steps, BATCH * futures, ACTION, dtype=torch.float64, generator=generator)
    t = torch.tensor(starts).expand(BATCH, futures)
    with torch.no_grad():
        _, states = sequence.observe(stoch, action, is_first, carry.state)
        b = torch.arange(BATCH).repeat_interleave(futures)
        for selected in (
            sequence.select(states, None, t),
            sequence.select(states, b, t.flatten()),
        ):
            state, imagined = selected, []
            for s in range(steps):
                h, state = sequence.step(later[s], sequence.action_embedding(moves[s], None), None, state)
                imagined.append(h)
            for n in range(BATCH * futures):
                end = int(t.flatten()[n]) + 1
                row = slice(n // futures, n // futures + 1)
                past = carry_of(carry.state, row)
                _, trail = sequence.observe(stoch[row, :end], action[row, :end], is_first[row, :end], past)
                past = sequence.last(trail)
                none = torch.zeros(1, steps, dtype=torch.float64)
                h, _ = sequence.observe(later[:, n].unsqueeze(0), moves[:, n].unsqueeze(0), none, past)
                assert_close(torch.stack(imagined, 1)[n], h[0], **CLOSE)


def carry_of(state, row):
    """The state of some rows."""
    tensors = (x if x.dim() == 0 else x[row] for x in leaves(state))
    return rebuild(state, tensors)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, resets)
def test_imagination_continues_the_trajectory(models, kind, seed, is_first):
    """Within an episode, the prior's step from step t gives the h and the prior of step t + 1."""
    model = models[kind]
    is_first[:, -1] = 0.0
    inputs = random_inputs(model, seed, is_first)
    trajectory = seen(model, inputs)
    b, t = torch.arange(BATCH), torch.full((BATCH,), STEPS - 2)
    features, carry = model.rssm.start(trajectory, t, b)
    assert torch.equal(features, trajectory.features[:, -2])
    imagined, after = model.rssm.imagine(inputs[1][:, -1], carry, inputs[4][:, -1])
    assert_close(imagined[:, :16], trajectory.features[:, -1, :16], **CLOSE)
    assert torch.equal(model.rssm.start(trajectory, t.unsqueeze(1))[0], features)
    assert torch.equal(after.stoch, imagined[:, -12:])
    assert torch.equal(after.stoch.view(BATCH, 3, 4).sum(-1), torch.ones(BATCH, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", MEMORIES)
@given(seeds, resets, st.lists(times, min_size=2, max_size=2))
def test_imagination_remembers_as_observation_does(models, kind, seed, is_first, starts):
    """From selected starts and from folded carries alike, and as if the imagined steps had been observed."""
    rssm = models[kind].rssm
    inputs = random_inputs(models[kind], seed, is_first)
    generator, steps = torch.Generator().manual_seed(seed), WINDOW + 2
    moves = torch.randn(steps, 2 * BATCH, ACTION, dtype=torch.float64, generator=generator)
    noise = rssm.noise(steps, 2 * BATCH, generator=generator)
    with torch.no_grad():
        trajectory = seen(models[kind], inputs)
        carry = rssm.start(trajectory, torch.tensor(starts).expand(BATCH, 2))[1]
        shared = imagine(rssm, moves, carry, noise)  # (2·B, steps, F)
        for n in range(2):
            rows = slice(n, None, 2)
            past = rssm.last(seen(models[kind], part(inputs, 0, starts[n] + 1, inputs[3])))
            assert_close(imagine(rssm, moves[:, rows], past, noise[:, rows]), shared[rows], **CLOSE)
            h, stoch = shared[rows, :, :16], shared[rows, :, -12:]
            actions, none = moves[:, rows].transpose(0, 1), torch.zeros(BATCH, steps, dtype=torch.float64)
            before, after, _ = rssm.sequence.memory.observe(h, stoch, past.stoch, actions, none, past.memory)
            assert_close(after, shared[rows, :, :-12], **CLOSE)
            probs = rssm._probs(rssm.prior(before))
            drawn = sample_straight_through(probs, noise[:, rows].transpose(0, 1)).flatten(-2)
            assert torch.equal(drawn, stoch)


def imagine(rssm, moves, carry, noise):
    """Features (N, steps, F) of imagined steps under actions (steps, N, A)."""
    found = []
    for action, numbers in zip(moves, noise, strict=True):
        features, carry = rssm.imagine(action, carry, numbers)
        found.append(features)
    return torch.stack(found, 1)


def stored_steps(seed, steps):
    """h, classes, latents and actions of some steps."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(BATCH, steps, 16, dtype=torch.float64, generator=generator).tanh()
    classes = torch.randint(4, (BATCH, steps, 3), generator=generator)
    action = torch.randn(BATCH, steps, ACTION, dtype=torch.float64, generator=generator)
    return h, classes, torch.nn.functional.one_hot(classes, 4).double().flatten(2), action


@pytest.mark.parametrize("kind", MEMORIES)
@given(seeds, resets)
def test_a_filled_memory_is_one_that_has_observed(models, kind, seed, is_first):
    memory = models[kind].rssm.sequence.memory
    h, classes, stoch, action = stored_steps(seed, WINDOW - 1)
    zeros = torch.zeros(BATCH, WINDOW - 1)
    with torch.no_grad():
        states = memory.observe(h, stoch, stoch[:, 0], action, zeros.double(), memory.initial(BATCH))[2]
        filled = memory.stored(h, classes, action, zeros.long())
        now, _, then, moves = stored_steps(seed + 1, STEPS)
        reads = [
            memory.observe(now, then, stoch[:, -1], moves, is_first, state)[:2]
            for state in (memory.last(states), filled)
        ]
    assert_close(reads[1], reads[0], **CLOSE)


@pytest.mark.parametrize("kind", MEMORIES)
@given(seeds, st.integers(0, WINDOW - 1), st.sampled_from(["h", "classes", "action"]))
def test_stored_steps_count_in_their_own_episode_only(models, kind, seed, foreign, what):
    """The first `foreign` of WINDOW − 1 stored steps are of another episode."""
    memory = models[kind].rssm.sequence.memory
    now, _, then, moves = stored_steps(seed + 1, STEPS)
    segments = torch.zeros(BATCH, WINDOW - 1, dtype=torch.long)
    segments[:, :foreign] = -1
    h, classes, _, action = stored_steps(seed, WINDOW - 1)

    def reads(steps):
        past = {"h": h.clone(), "classes": classes.clone(), "action": action.clone()}
        past[what][:, steps] = (past[what][:, steps] + 1) % 4
        state = memory.stored(past["h"], past["classes"], past["action"], segments)
        none = torch.zeros(BATCH, STEPS, dtype=torch.float64)
        with torch.no_grad():
            return torch.cat(memory.observe(now, then, then[:, 0], moves, none, state)[:2], -1)

    before = reads(slice(0, 0))
    assert torch.equal(reads(slice(0, foreign)), before)
    if foreign < WINDOW - 1:
        assert not torch.equal(reads(slice(foreign, None)), before)


@pytest.mark.parametrize("kind", ["memory-born", "memory-ffm"])
def test_a_sum_of_the_past_never_grows(models, kind):
    """Numbers that acting keeps after one step, and after more than a window."""
    memory = models[kind].rssm.sequence.memory
    state, sizes = memory.initial(BATCH), []
    h, _, stoch, moves = stored_steps(0, 3 * WINDOW)
    with torch.no_grad():
        for t in range(3 * WINDOW):
            h_t, z, action = (x[:, t : t + 1] for x in (h, stoch, moves))
            first = torch.zeros(BATCH, 1, dtype=torch.float64)
            state = memory.last(memory.observe(h_t, z, stoch[:, t - 1], action, first, state)[2])
            sizes.append(sum(x.numel() for x in leaves(state)))
    assert set(sizes) == {sizes[0]}


@pytest.mark.parametrize("kind", MEMORIES)
def test_with_nobody_to_see_memory_gives_nothing(models, kind):
    model = models[kind]
    inputs = random_inputs(model, 0, torch.ones(BATCH, STEPS, dtype=torch.float64))
    h, stoch = seen(model, inputs).features.split([24, 12], -1)
    rest = inputs[1], inputs[2], inputs[3].memory
    before, after, _ = model.rssm.sequence.memory.observe(h[..., :16], stoch, inputs[3].stoch, *rest)
    assert not before[..., 16:].any()
    assert after[..., 16:].any()  # itself
    nothing = model.rssm.initial(BATCH)
    before, _ = model.rssm.sequence.memory.ask(h[:, 0, :16], stoch[:, 0], inputs[1][:, 0], nothing.memory)
    assert not before[:, 16:].any()


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
    # The carries may hold different pasts; what follows from them must not differ.
    rest = part(random_inputs(model, seed + 2, torch.zeros_like(is_first)), 0, STEPS, None)
    continued = [observe(model, [*rest[:3], carry, rest[4]])[0] for carry in (last, last_after)]
    for x, y in zip(*continued, strict=True):
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
    tensors = [x.clone() for x in leaves((carry.state, carry.memory))]
    state = [x.requires_grad_() for x in tensors if x.is_floating_point() and x.numel()]
    wanted = [x.clone().requires_grad_() for x in (observation, action, carry.stoch)]
    past, memory = rebuild((carry.state, carry.memory), iter(tensors))
    start = Carry(past, wanted[2], memory)
    outputs, _ = observe(model, [*wanted[:2], is_first, start, noise])
    generator = torch.Generator().manual_seed(0)
    total = sum(
        (x[:, steps] * torch.randn(x[:, steps].shape, dtype=x.dtype, generator=generator)).sum()
        for x in outputs
    )
    *found, stoch = torch.autograd.grad(total, [*wanted[:2], *state, wanted[2]], allow_unused=True)
    rows = [g.reshape(BATCH, -1) for g in found[2:] if g is not None]
    return *found[:2], torch.cat(rows, 1) if rows else torch.zeros(BATCH, 1), stoch


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
