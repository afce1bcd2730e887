"""Imagination in C against the loop in torch: same noise in, same classes and actions out."""

import sys

import pytest
import torch
from torch.nn.functional import one_hot
from torch.testing import assert_close

from qdreamer import native
from qdreamer.agents.behaviour import imagine
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.actions import ActionSpec, Classes, Numbers
from qdreamer.envs.entries import Binary, Vector
from qdreamer.worldmodel.rssm import Carry

rollout_module = sys.modules["qdreamer.native.rollout"]

pytestmark = pytest.mark.usefixtures("compiled")

HORIZON = 15
SMALL = (
    "world_model.units=24",
    "world_model.deter=48",
    "world_model.core=48",
    "world_model.hidden=20",
    "world_model.stoch=5",
)


def make_agent(make_config, discrete, *settings, spec=None, **entries):
    torch.manual_seed(0)
    spec = spec or (ActionSpec.discrete(3) if discrete else ActionSpec.continuous(3))
    entries = {"observation": Vector(4), **entries}
    agent = make_dreamer(make_config("agent=classical", *settings), entries, spec)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent


def starts(rssm, rows):
    """Features of all sorts, and the carry of which they are made."""
    h = torch.randn(rows, rssm.sequence.deter).tanh()
    z = one_hot(torch.randint(rssm.classes, (rows, rssm.stoch)), rssm.classes).to(h).flatten(1)
    return torch.cat([h, z], 1), Carry(h, z)


def counted(monkeypatch):
    """A list that grows with every rollout in C."""
    calls, call = [], native.rollout.call
    monkeypatch.setattr(native.rollout, "call", lambda *args: calls.append(args) or call(*args))
    return calls


def rollouts(agent, features, carry, monkeypatch):
    """What imagination gives without and with the kernels, and how often the latter made one call of it."""
    calls = counted(monkeypatch)
    results = []
    for on in (False, True):
        native.use(on)
        generator = torch.Generator().manual_seed(4)
        results.append(imagine(agent.world_model, agent.actor, features, carry, HORIZON, generator))
    native.use(False)
    return *results, len(calls)


def futures(agent, monkeypatch, steps=7, starts=6, past=0, b=None, stored=0):
    """The same of futures with attention, with resets in what they go on from.

    They begin after the last `starts` of `steps` steps, or after steps `starts` of sequences b, with a past
    of so many steps before all of them, or so many that replay has stored.
    """
    calls = counted(monkeypatch)
    generator = torch.Generator().manual_seed(2)
    batch, rssm = 9, agent.world_model.rssm
    is_first = (torch.rand(batch, past + steps, generator=generator) < 0.2).float()
    actions = torch.randn(batch, past + steps, agent.action.size, generator=generator)
    embed = torch.randn(batch, past + steps, agent.world_model.encoder.width, generator=generator)
    noise = torch.rand(batch, past + steps, rssm.stoch, generator=generator)
    t = torch.arange(steps - starts, steps).expand(batch, -1) if b is None else starts
    results = []
    for on in (False, True):
        native.use(on)
        with torch.no_grad():
            carry = rssm.initial(batch) if not stored else stored_carry(rssm, batch, stored, actions)
            for part in (slice(0, past), slice(past, None)) if past else (slice(None),):
                inputs = (x[:, part] for x in (embed, actions, is_first))
                trajectory = rssm.observe(*inputs, carry, noise[:, part])
                carry = rssm.last(trajectory)
            features, carry = rssm.start(trajectory, t, b)
        generator = torch.Generator().manual_seed(4)
        results.append(imagine(agent.world_model, agent.actor, features, carry, HORIZON, generator))
    native.use(False)
    return *results, len(calls)


def stored_carry(rssm, batch, steps, actions):
    """What replay has kept of so many steps, some of other episodes."""
    generator = torch.Generator().manual_seed(8)
    state = torch.randn(batch, steps, rssm.sequence.deter, generator=generator).tanh().half()
    stoch = torch.randint(rssm.classes, (batch, steps, rssm.stoch), generator=generator)
    segments = torch.zeros(batch, steps, dtype=torch.long)
    segments[1, :3] = -1
    return rssm.unpack(
        state, stoch, torch.randn(batch, steps, actions.shape[2], generator=generator), segments
    )


def same(agent, plain, native):
    """A number on the border of two classes, to rounding, may draw either: such rows are left out."""
    latents = agent.world_model.rssm.latents
    alike = (native.features[1:, :, -latents:] == plain.features[1:, :, -latents:]).all(-1).all(0)  # (N,)
    if agent.action.leaves[0].kind == "discrete":
        alike &= torch.isclose(native.actions, plain.actions, atol=1e-4).all(-1).all(0)  # numbers, too
    assert (~alike).sum() <= 0.05 * len(alike)
    assert_close(native.features[:, alike], plain.features[:, alike], rtol=1e-4, atol=1e-4)
    assert_close(native.actions[:, alike], plain.actions[:, alike], rtol=1e-4, atol=1e-4)
    parameters = list(agent.actor.parameters())
    gradients = []
    for rollout in (plain, native):
        log_prob, entropy = rollout.policy.log_prob(plain.actions), sum(rollout.policy.entropy().values())
        weight = torch.randn(log_prob.shape, generator=torch.Generator().manual_seed(1))
        loss = ((log_prob * weight + entropy) * alike).sum()
        gradients.append(torch.autograd.grad(loss, parameters))
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        assert_close(got, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [
        ("world_model=tiny",),
        ("world_model=tiny", "sequence.blocks=8", "sequence.deter=64"),
        ("world_model=1M",),
        # Widths that fill no vector; other depths.
        (*SMALL, "world_model.classes=3", "sequence.blocks=4", "agent.actor_layers=1", "agent.units=10"),
        (*SMALL, "world_model.prior_layers=0", "agent.actor_layers=2"),
    ],
)
def test_same_rollouts(make_config, discrete, sizes, threads, monkeypatch):
    agent = make_agent(make_config, discrete, *sizes)
    for rows in (1, 37):
        features, carry = starts(agent.world_model.rssm, rows)
        plain, native, calls = rollouts(agent, features, carry, monkeypatch)
        assert calls == 1
        same(agent, plain, native)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        ("attention=softmax",),
        ("attention=coherent",),
        ("attention=coherent", "sequence.layers=2", "sequence.window=5", *SMALL, "world_model.width=48"),
        ("attention=born",),
        ("attention=born", "attention.decay=false", "sequence.heads=3", "sequence.head=6", *SMALL),
        ("attention=uniform",),
        ("attention=random_keys", "sequence.heads=3", "sequence.head=20"),
        ("attention=coherent", "attention.curriculum.length=1"),
    ],
)
def test_same_futures_of_transformers(make_config, discrete, settings, threads, monkeypatch):
    agent = make_agent(make_config, discrete, "world_model=tiny", "sequence=transformer", *settings)
    for steps, starts in ((7, 6), (24, 8)):
        plain, native, calls = futures(agent, monkeypatch, steps, starts)
        assert calls == 1
        same(agent, plain, native)
        monkeypatch.undo()


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        ("attention=softmax",),
        ("attention=coherent",),
        (
            "attention=coherent",
            *SMALL,
            "world_model.memory=24",
            "sequence.head=6",
            "sequence.memory_hidden=20",
        ),
        ("attention=born",),
        ("attention=born", "attention.decay=false", *SMALL, "sequence.window=5"),
        ("attention=uniform",),
        ("attention=random_keys",),
    ],
)
def test_same_futures_with_memory(make_config, discrete, settings, threads, monkeypatch):
    agent = make_agent(make_config, discrete, "world_model=tiny", "sequence=gru_attention", *settings)
    for steps, starts in ((7, 6), (24, 8)):
        plain, native, calls = futures(agent, monkeypatch, steps, starts)
        assert calls == 1
        same(agent, plain, native)
        monkeypatch.undo()


MIXED = ActionSpec((Classes(3), Numbers(2), Classes(2, count=2)))


@pytest.mark.parametrize(
    ("settings", "spec", "masked"),
    [
        (("heads=quantum",), None, False),
        (("heads=quantum", "heads.path=mlp", "heads.pattern=attention"), None, False),
        (("heads=quantum",), ActionSpec.continuous(3), False),
        (("agent.actor_layers=0",), None, False),
        ((), MIXED, False),
        ((), ActionSpec.discrete(3), True),
    ],
)
@pytest.mark.parametrize("sequence", ["gru", "gru_attention", "transformer"])
def test_who_acts_may_be_torch(make_config, settings, spec, masked, sequence, threads, monkeypatch):
    """C asks for the actions of every step where it does not know the actor."""
    entries = {"action_mask": Binary(3)} if masked else {}
    agent = make_agent(make_config, True, f"sequence={sequence}", *settings, spec=spec, **entries)
    asked, output = [], agent.actor.output
    monkeypatch.setattr(
        agent.actor, "output", lambda features, mask: asked.append(mask) or output(features, mask)
    )
    plain, native, calls = futures(agent, monkeypatch, 24, 8)
    assert calls == 1
    assert len(asked) == 2 * HORIZON
    assert all((mask is not None) == masked for mask in asked)
    same(agent, plain, native)


def test_too_many_to_go_together_take_the_loop(make_config, monkeypatch):
    monkeypatch.setattr(rollout_module, "MOST_TOGETHER", 9 * 8 * 5 - 1)
    agent = make_agent(make_config, True, "agent.actor_layers=0", *SMALL)
    plain, native, calls = futures(agent, monkeypatch, 24, 8)
    assert calls == 0
    same(agent, plain, native)


@pytest.mark.parametrize("last", [1, 3, HORIZON])
def test_an_actor_that_fails_is_heard(make_config, last, monkeypatch):
    agent = make_agent(make_config, True, "heads=quantum", *SMALL)
    features, carry = starts(agent.world_model.rssm, 3)
    steps, output = [], agent.actor.output

    def fails(features, mask):
        steps.append(len(steps))
        if len(steps) == last:
            raise KeyboardInterrupt
        return output(features, mask)

    monkeypatch.setattr(agent.actor, "output", fails)
    native.use(True)
    with pytest.raises(KeyboardInterrupt):
        imagine(agent.world_model, agent.actor, features, carry, HORIZON, torch.Generator().manual_seed(4))
    native.use(False)
    assert len(steps) == last


@pytest.mark.parametrize("sequence", ["transformer", "gru_attention"])
@pytest.mark.parametrize("window", [12, 64])
@pytest.mark.parametrize("attention", ["softmax", "coherent"])
def test_futures_see_what_was_before_all_steps(make_config, attention, window, sequence, monkeypatch):
    settings = [f"attention={attention}", f"sequence.window={window}"]
    settings += ["sequence.layers=2"] * (sequence == "transformer")
    agent = make_agent(make_config, True, "world_model=tiny", f"sequence={sequence}", *settings)
    plain, native, calls = futures(agent, monkeypatch, 24, 12, past=9)
    assert calls == 1
    same(agent, plain, native)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("window", [12, 64])
@pytest.mark.parametrize("attention", ["softmax", "coherent", "born"])
def test_futures_see_what_replay_has_stored(make_config, attention, window, discrete, monkeypatch):
    settings = f"attention={attention}", f"sequence.window={window}"
    agent = make_agent(make_config, discrete, "world_model=tiny", "sequence=gru_attention", *settings)
    plain, native, calls = futures(agent, monkeypatch, 24, 12, stored=11)
    assert calls == 1
    same(agent, plain, native)


def test_a_window_of_a_thousand_steps_runs_in_c(make_config, monkeypatch):
    agent = make_agent(make_config, True, "sequence=gru_attention", "sequence.window=1024", *SMALL)
    plain, native, calls = futures(agent, monkeypatch, 8, 4, stored=1023)
    assert calls == 1
    same(agent, plain, native)


@pytest.mark.parametrize("attention", ["coherent", "born"])
def test_futures_of_any_start_and_length(make_config, attention, monkeypatch):
    settings = f"attention={attention}", *SMALL, "world_model.width=48"
    agent = make_agent(make_config, True, "world_model=tiny", "sequence=transformer", *settings)
    monkeypatch.setattr(f"{__name__}.HORIZON", 20)
    b, t = torch.tensor([2, 0, 1, 1, 8]), torch.tensor([5, 23, 0, 11, 22])
    plain, native, calls = futures(agent, monkeypatch, 24, t, b=b)
    assert calls == 1
    same(agent, plain, native)


def test_a_recurrent_state_takes_the_loop(make_config, monkeypatch):
    agent = make_agent(
        make_config, True, "world_model=tiny", "sequence=transformer", "attention=born", *SMALL
    )
    plain, native, calls = futures(agent, monkeypatch, past=3)
    assert calls == 0
    same(agent, plain, native)


def test_traces_that_decay_take_the_loop(make_config, monkeypatch):
    agent = make_agent(make_config, True, "world_model=tiny", "sequence=gru_attention", "attention=ffm")
    plain, native, calls = futures(agent, monkeypatch, stored=11)
    assert calls == 0
    same(agent, plain, native)


def test_starts_of_any_kind(make_config, monkeypatch):
    """Neither is a start's latent one-hot, nor has it to be what the features show."""
    agent = make_agent(make_config, True, *SMALL)
    rssm = agent.world_model.rssm
    wide = torch.randn(9, 2 * rssm.features, requires_grad=True)
    state, stoch = torch.randn(2, 9, rssm.sequence.deter)[1], torch.randn(rssm.stoch * rssm.classes, 9).t()
    plain, native, _ = rollouts(agent, wide[:, ::2], Carry(state, stoch), monkeypatch)
    same(agent, plain, native)
    assert not native.features.requires_grad
    assert not native.actions.requires_grad


def test_results_do_not_depend_on_threads_or_company(make_config, monkeypatch):
    agent = make_agent(make_config, True, *SMALL)
    features, carry = starts(agent.world_model.rssm, 70)
    _, together, _ = rollouts(agent, features, carry, monkeypatch)
    monkeypatch.setattr(rollout_module, "GROUP", 8)
    _, apart, _ = rollouts(agent, features, carry, monkeypatch)
    assert torch.equal(together.features, apart.features)
    assert torch.equal(together.policy.probs, apart.policy.probs)


@pytest.mark.parametrize(
    "reason",
    ["mixture", "complex", "mixed memory", "deeper memory", "deeper", "too large", "double precision"],
)
def test_others_take_the_loop(make_config, reason, monkeypatch):
    settings = {
        "mixture": ("world_model=tiny", "sequence=transformer", "attention.curriculum.last=0.5"),
        "complex": ("world_model=tiny", "sequence=transformer", "attention=born", "attention.complex=true"),
        "deeper": (*SMALL, "sequence.layers=2"),
        "deeper memory": (*SMALL, "sequence=gru_attention", "sequence.layers=2"),
        "mixed memory": (*SMALL, "sequence=gru_attention", "attention.curriculum.last=0.5"),
    }.get(reason, SMALL)
    agent = make_agent(make_config, True, *settings)
    if reason in ("mixture", "complex", "mixed memory", "deeper memory"):
        agent.world_model.rssm.sequence.schedule(1)
        plain, native, calls = futures(agent, monkeypatch)
        assert calls == 0
        same(agent, plain, native)
        return
    if reason == "too large":
        monkeypatch.setattr(rollout_module, "MOST_WEIGHTS", 1)
    if reason == "double precision":
        agent = agent.double()
    rssm = agent.world_model.rssm
    features = torch.randn(4, rssm.features, dtype=next(agent.parameters()).dtype)
    carry = rssm.initial(4)
    plain, native, calls = rollouts(agent, features, carry, monkeypatch)
    assert calls == 0
    same(agent, plain, native)


def test_what_is_no_number_shows(make_config, monkeypatch):
    agent = make_agent(make_config, True, *SMALL)
    with torch.no_grad():
        agent.world_model.rssm.sequence.gates.bias[0] = torch.nan
    features, carry = starts(agent.world_model.rssm, 3)
    _, native, _ = rollouts(agent, features, carry, monkeypatch)
    assert native.features[1:].isnan().any(-1).all()
