"""Agents some of whose weights are made: training, checkpoints, averages, every optimizer."""

from contextlib import closing

import pytest
import torch
from torch.testing import assert_close

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs.run_directory import fingerprint
from qdreamer.agents.substitution import SLOTS
from qdreamer.agents.training.loading import load_agent
from qdreamer.agents.training.training import Run, make_agent
from qdreamer.configs.schema import ConfigError
from qdreamer.worldmodel.weights.generated import effective
from tests.golden.run import open_run as trained_heads

SMALL = (
    "env=CartPole", "agent=classical", "steps=40", "train.prefill=16", "train.batch_size=2",
    "train.batch_length=4", "train.replay_ratio=4", "agent.imagination_starts=2",
    "agent.imagination_horizon=3", "world_model.units=8", "world_model.deter=8", "world_model.hidden=8",
    "world_model.stoch=2", "evaluation.episodes=1", "evaluation.max_steps=4", "evaluation.horizon=2",
    "evaluation.context=1", "logging.writers=[jsonl]", "logging.every=10",
)  # fmt: skip
TRAIN = {"quantum_train": ("weights.blocks=2", "weights.mapping=[5]"), "hashed": ("weights.parameters=120",)}
ALL = "weights.modules=[actor,critic,decoder,prior,posterior]"
SEARCH = (
    "optimizer=hybrid", "optimizer.every=2", "optimizer.wait=true", "optimizer.fresh=2",
    "optimizer.slice=1", "optimizer.num_qubits=4",
)  # fmt: skip


def weights_of(agent):
    """Weights of every module that may be made, of their averages as well."""
    modules = [getattr(slot.owner(agent), slot.attribute) for slot in SLOTS.values()]
    return [
        w.detach().clone() for m in (*modules, agent.average_actor, agent.critic.slow) for w in effective(m)
    ]


def open_run(path, *overrides):
    path.mkdir(parents=True, exist_ok=True)
    return closing(Run(load_config([*SMALL, *overrides]), path))


def filled(run, rows=30):
    for _ in range(rows):
        run.collector.step(random=True)
    return run


@pytest.mark.parametrize("kernels", ["kernels=false", "kernels=true"])
@pytest.mark.parametrize("optimizer", [(), SEARCH], ids=["laprop", "hybrid"])
def test_made_modules_learn_with_every_optimizer(tmp_path, optimizer, kernels, compiled):
    with open_run(
        tmp_path, "weights=quantum_train", *TRAIN["quantum_train"], ALL, *optimizer, kernels
    ) as run:
        filled(run)
        agent, learner = run.agent, run.learner
        for name, slot in SLOTS.items():
            module = getattr(slot.owner(agent), slot.attribute)
            assert all(".generated." in f".{n}" for n, _ in module.named_parameters()), name
        before = {n: p.detach().clone() for n, p in agent.named_parameters()}
        for _ in range(4):
            metrics = learner.update()
        assert all(torch.isfinite(m).all() for m in metrics.values())
        changed = {n for n, p in agent.named_parameters() if not torch.equal(p, before[n])}
        assert {n for n in before if ".generated." in n} <= changed
        # After an update the weights are those of the parameters, and hold no graph.
        made = [*agent.made, *agent.world_model.made]
        assert len(made) == len(SLOTS)
        for weights in made:
            now = [w.clone() for w in weights.tensors()]
            assert not any(w.requires_grad for w in now)
            weights.refresh()
            assert all(torch.equal(a, b) for a, b in zip(now, weights.tensors(), strict=True))


def test_gradients_in_c_are_those_of_torch(compiled):
    found = []
    modules = "weights.modules=[actor,decoder,prior,posterior]"
    for kernels in ("kernels=false", "kernels=true"):
        words = [*SMALL, "weights=quantum_train", modules, kernels]
        with trained_heads(*words, dtype=torch.float32, rows=30) as run:
            run.learner.update()
            found.append({n: p.grad.clone() for n, p in run.agent.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("actor.generated" in name for name in found[0])
    for name, gradient in found[0].items():
        # Some are zero but for rounding: the mean of what a generator makes is taken off.
        module = name.partition(".generated.")[0]
        largest = max(float(g.abs().max()) for n, g in found[0].items() if n.startswith(module))
        assert_close(found[1][name], gradient, rtol=0.0, atol=2e-3 * largest, msg=name)


@pytest.mark.parametrize("choice", ["quantum_train", pytest.param("hashed", marks=pytest.mark.long)])
def test_a_run_resumes_exactly(tmp_path, choice):
    def train(path, steps):
        with open_run(
            path, f"weights={choice}", *TRAIN[choice], ALL, f"steps={steps}", "kernels=false"
        ) as run:
            run.train(Progress(steps, 0, 0))
            return weights_of(run.agent), run.learner.updates

    whole, updates = train(tmp_path / "whole", 40)
    train(tmp_path / "parts", 28)
    parts, again = train(tmp_path / "parts", 40)
    assert updates == again > 5
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    config = load_config([*SMALL, f"weights={choice}", *TRAIN[choice], ALL, "kernels=false"])
    loaded = load_agent(tmp_path / "whole", config)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(loaded), whole, strict=True))


def test_the_average_is_of_weights_and_not_of_what_makes_them(tmp_path):
    with open_run(tmp_path, "weights=quantum_train", "agent.average_rate=0.25", "kernels=false") as run:
        agent = filled(run).agent
        assert not hasattr(agent.average_actor, "generated")
        before = [p.clone() for p in agent.average_actor.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, effective(agent.actor), strict=True))
        run.learner.update()
        for old, new, now in zip(
            before, agent.average_actor.parameters(), effective(agent.actor), strict=True
        ):
            assert_close(new, old.lerp(now, 0.25))


def test_sizes_of_the_default_actor_and_its_controls():
    full = sum(p.numel() for p in make_agent(load_config(["agent=classical"])).actor.parameters())
    assert full == 25_090
    sizes = {}
    for name in ("quantum_train", "separable_circuit", "projection", "hashed", "mlp_generator"):
        agent = make_agent(load_config(["agent=classical", f"weights={name}"]))
        sizes[name] = sum(p.numel() for p in agent.actor.parameters())
        assert sum(p.numel() for p in agent.average_actor.parameters()) == full
    assert set(sizes.values()) == {sizes["quantum_train"]}
    small = make_agent(load_config(["agent=classical", "weights=small_network"]))
    count = sum(p.numel() for p in small.actor.parameters())
    assert 0.5 * sizes["quantum_train"] < count <= sizes["quantum_train"]
    assert sum(p.numel() for p in small.average_actor.parameters()) == count


def test_without_a_choice_nothing_is_made_and_no_run_has_another_name():
    config = load_config(["optimizer=hybrid"])  # as the default was when weights came
    agent = make_agent(config)
    assert agent.made == agent.world_model.made == []
    assert not any("generated" in name for name in agent.state_dict())
    assert fingerprint(config) == "1c1d98d163293557"  # of the defaults without this section
    assert fingerprint(load_config(["optimizer=hybrid", "weights=hashed"])) != fingerprint(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("weights=quantum_trian",), "did you mean quantum_train?"),
        (("weights=quantum_train", "weights.modules=[encoder]"), "is not one of actor, critic, decoder"),
        (("weights=quantum_train", "weights.activation=gelu"), "weights.activation=gelu is not one of none"),
        (("weights=hashed", "weights.blocks=3"), "unknown key weights.blocks"),
        (("weights=hashed", "weights.parameters=1"), "weights.parameters=1 must be at least 2"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(list(overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("weights=low_rank", "weights.parameters=50"), "weights=low_rank cannot make the actor: "),
        (("weights=small_network", "weights.parameters=50"), "one unit has "),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_agent(load_config(list(overrides)))
