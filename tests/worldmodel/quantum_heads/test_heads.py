"""Heads with a circuit in them: patterns, controls, and agents that have some."""

from contextlib import closing

import pytest
import torch
from torch.testing import assert_close

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.training.training import Run, make_agent
from qdreamer.configs.schema import ConfigError
from qdreamer.worldmodel.networks.layers import MLPHead
from qdreamer.worldmodel.quantum_heads.paths import PATHS
from qdreamer.worldmodel.quantum_heads.patterns import PATTERNS

FEATURES, UNITS, OUT = 7, 6, 3
PATHS_HERE = [name for name in PATHS.names() if not name.startswith("photonic")]  # see test_photonic.py
SMALL = (
    "env=CartPole", "agent=classical", "steps=40", "train.prefill=16", "train.batch_size=2",
    "train.batch_length=4", "train.replay_ratio=4", "agent.imagination_starts=2",
    "agent.imagination_horizon=3", "world_model.units=8", "world_model.deter=8", "world_model.hidden=8",
    "world_model.stoch=2", "evaluation.episodes=1", "evaluation.max_steps=4", "evaluation.horizon=2",
    "evaluation.context=1", "logging.writers=[jsonl]", "logging.every=10", "kernels=false",
)  # fmt: skip
ALL = "heads.modules=[actor,critic,reward,continue]"


def head(pattern, path="circuit", layers=2, **changes):
    words = [f"heads.{key}={value}" for key, value in changes.items()]
    config = load_config(["heads=quantum", f"heads.pattern={pattern}", f"heads.path={path}", *words]).heads
    torch.manual_seed(0)
    made = MLPHead(FEATURES, UNITS, layers, OUT)
    config.insert(made)
    return made


def features(*shape):
    return torch.randn(*shape, FEATURES, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("path", PATHS_HERE)
@pytest.mark.parametrize("pattern", PATTERNS.names())
def test_every_pattern_takes_every_path_whatever_the_widths(pattern, path, layers):
    made = head(pattern, path, layers)
    x = features(4, 5)
    out = made(x)
    assert out.shape == (4, 5, OUT)
    assert torch.isfinite(out).all()
    if path != "random":  # which magnifies rounding
        assert_close(made(x[2]), out[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS.names())
def test_the_circuit_learns_in_every_pattern_and_a_frozen_one_does_not(pattern):
    for path, learns in (("circuit", True), ("frozen", False)):
        made = head(pattern, path)
        if pattern == "residual":
            torch.nn.init.normal_(made.body.expand.weight)
        before = made.state_dict()["body.path.angles"].clone()
        optimizer = torch.optim.SGD(made.parameters(), 0.1)
        made(features(8)).square().sum().backward()
        optimizer.step()
        assert torch.equal(made.body.path.angles, before) != learns


def test_residual_starts_as_the_head_without_a_circuit():
    torch.manual_seed(0)
    plain, x = MLPHead(FEATURES, UNITS, 2, OUT), features(9)
    assert torch.equal(head("residual")(x), plain(x))
    assert not torch.equal(head("parallel")(x), plain(x))


def test_sequential_passes_nothing_by_the_path():
    assert head("sequential", "zeroed")(features(9)).std(0).max() == 0.0
    assert head("residual", "zeroed")(features(9)).std(0).max() > 0.0


def test_attention_weighs_both_paths_by_the_row():
    made = head("attention").body
    with torch.no_grad():
        made.score.bias.copy_(torch.tensor([40.0, 0.0]))
    x = features(9)
    assert_close(made(x), made.classical(x))
    with torch.no_grad():
        made.score.bias.copy_(torch.tensor([0.0, 40.0]))
    assert_close(made(x), made.expand(made.path(made.compress(x))))


def test_random_is_noise_that_repeats_and_zeroed_is_nothing():
    random, zeroed = (PATHS[name].part(4) for name in ("random", "zeroed"))
    x = torch.randn(2000, 4)
    out = random(x)
    assert torch.equal(out, random(x))
    assert out.abs().max() <= 1.0 and out.std() > 0.6
    near = random(x + 1e-2)
    assert torch.corrcoef(torch.stack([out.flatten(), near.flatten()]))[0, 1].abs() < 0.1
    assert zeroed(x).abs().max() == 0.0


@pytest.mark.parametrize(("qubits", "blocks"), [(2, 1), (4, 2), (6, 4)])
def test_the_mlp_has_at_most_as_many_parameters_and_nearly_as_many(qubits, blocks):
    circuit, mlp = (PATHS[name].part(qubits, blocks=blocks) for name in ("circuit", "mlp"))
    counts = [sum(p.numel() for p in part.parameters()) for part in (circuit, mlp)]
    assert counts[0] == 6 * qubits * blocks
    assert counts[0] - (2 * qubits + 1) < counts[1] <= counts[0]


@pytest.mark.parametrize(
    "pattern",
    [
        "attention",
        "residual",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("parallel", "sequential")),
    ],
)
def test_agents_learn_with_circuits_in_all_heads_and_resume_exactly(tmp_path, pattern):
    def train(name, steps):
        (tmp_path / name).mkdir(exist_ok=True)
        words = [*SMALL, "heads=quantum", f"heads.pattern={pattern}", ALL, f"steps={steps}"]
        with closing(Run(load_config(words), tmp_path / name)) as run:
            run.train(Progress(steps, 0, 0))
            return {n: x.clone() for n, x in run.agent.state_dict().items()}

    whole = train("whole", 40)
    train("parts", 28)
    parts = train("parts", 40)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    moved = [name for name in whole if name.endswith("path.angles")]
    assert len(moved) == 6  # four heads, the averaged actor and the slow critic


def test_averages_have_the_circuit_as_well_and_follow_it():
    agent = make_agent(load_config([*SMALL, "heads=quantum", ALL]))
    assert not any(p.requires_grad for p in agent.average_actor.parameters())
    angles = agent.average_actor.body.body.path.angles
    assert torch.equal(angles, agent.actor.body.body.path.angles)
    with torch.no_grad():
        agent.actor.body.body.path.angles.add_(1.0)
    before = angles.clone()
    agent.update_averages()
    assert_close(angles, before + agent.config.average_rate)


def test_kernels_leave_such_heads_to_torch(tmp_path, compiled):
    words = [*SMALL[:-1], "kernels=true", "heads=quantum", ALL]
    with closing(Run(load_config(words), tmp_path)) as run:
        for _ in range(30):
            run.collector.step(random=True)
        metrics = run.learner.update()
    assert all(torch.isfinite(value).all() for value in metrics.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("heads.pattern=residul",), "heads.pattern=residul is not one of attention, parallel"),
        (("heads.path=mpl",), "did you mean mlp?"),
        (("heads.modules=[decoder]",), "is not one of actor, critic, reward, continue"),
        (("heads.qubits=40",), "heads.qubits=40 must be at most 16"),
        (("weights=hashed",), "weights.modules and heads.modules both name actor"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(words, message):
    with pytest.raises(ConfigError) as error:
        load_config(["heads=quantum", *words])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
