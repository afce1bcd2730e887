"""Replay and quantum settings: every sampler has its own keys, and what cannot be right is refused."""

import pytest

from qdreamer.agents.cli.command_line import prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.replay.config import make_sampler
from qdreamer.agents.replay.pool import ShotPool
from qdreamer.agents.replay.prioritized import PrioritizedConfig
from qdreamer.agents.replay.quantum import QuantumReplayConfig
from qdreamer.agents.replay.sum_tree import TreeDistribution
from qdreamer.agents.replay.uniform import UniformConfig
from qdreamer.configs.schema import ConfigError
from qdreamer.quantum.jobs.access import CircuitAccess


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("uniform", UniformConfig),
        ("prioritized", PrioritizedConfig),
        ("curious", PrioritizedConfig),
        ("quantum", QuantumReplayConfig),
    ],
)
def test_each_group_has_its_own_class(name, kind):
    replay = load_config([f"replay={name}"]).replay
    assert type(replay) is kind
    assert replay.name == name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["replay=prioritised"], "did you mean prioritized"),
        (["replay=uniform", "replay.alpha=1"], "unknown key replay.alpha.*replay has name, capacity"),
        (["replay=prioritized", "replay.floor=0.1"], "unknown key replay.floor"),
        (["replay=prioritized", "replay.transform=ranks"], "replay.transform=ranks is not one of.*rank"),
        (["replay=prioritized", "replay.offset=0"], "replay.offset=0 must be greater than 0"),
        (["replay=prioritized", "replay.beta=[0.4,1.5]"], r"replay.beta\[1\]=1.5 must be at most 1"),
        (["replay=quantum", "replay.qubits=13"], "replay.qubits=13 must be at most 12"),
        (["replay=quantum", "replay.floor=0"], "replay.floor=0 must be at least 0.001"),
        (["replay=quantum", "quantum=ibm", "replay.qubits=6"], "replay.qubits=6 needs 62 CX"),
        (
            ["replay=quantum", "quantum=aer", "quantum.device=FakeFez"],
            "quantum=aer takes no quantum.device",
        ),
        (
            ["replay=quantum", "quantum=aer_noisy", "quantum.device=FakeFess"],
            "no fake device FakeFess",
        ),
    ],
)
def test_wrong_settings_are_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError, match=words) as caught:
        prepare(["env=CartPole", *overrides])
    assert "\n" not in str(caught.value)


def test_backends_choose_what_draws(tmp_path):
    for overrides, kind in (([], TreeDistribution), (["quantum=aer"], ShotPool)):
        config = load_config(["replay=quantum", "replay.capacity=500", *overrides])
        circuits = CircuitAccess.of(config.quantum, tmp_path)
        sampler = make_sampler(config.replay, 1, 16, 0, circuits)
        assert type(sampler.proposal) is kind
        circuits.close()


def test_other_sections_keep_their_choice_of_backend_whatever_the_replay():
    """A sweep over replay=uniform,quantum with quantum=aer is one command."""
    assert load_config(["replay=uniform", "quantum=aer"]).quantum.name == "aer"
