"""`circuit`: the numbers of `born`, measured."""

import math

import pennylane as qml
import pytest
import torch
from torch.testing import assert_close

from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from qdreamer.quantum.backends import pennylane_backend
from qdreamer.quantum.circuits.overlaps import overlap_circuit, overlap_values
from qdreamer.worldmodel.attention import circuit
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.circuit import Circuit

HEADS, WIDTH, STEPS = 2, 8, 5
CHANNELS = {
    "depolarizing": {"depolarizing_one": 0.01, "depolarizing_two": 0.03},
    "amplitude damping": {"amplitude_damping": 0.02},
    "phase damping": {"phase_damping": 0.05},
    "thermal relaxation": {"t1": 50.0, "t2": 70.0},
    "readout": {"readout": 0.03},
}


@pytest.fixture
def quantum_config(make_config):
    """`quantum_config("aer", shots=100, …)`."""

    def make(choice, noise=None, **changes):
        settings = {f"quantum.{key}": value for key, value in changes.items()}
        settings |= {f"quantum.noise.{key}": value for key, value in (noise or {}).items()}
        shown = (
            f"{key}={'null' if value is None else value}".lower()
            if not isinstance(value, str)
            else f"{key}={value}"
            for key, value in settings.items()
        )
        return make_config(f"quantum={choice}", *shown).quantum

    return make


def heads(seed=0, batch=2, width=WIDTH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, batch, HEADS, STEPS, width, generator=generator, dtype=dtype).unbind())


def test_analytic_overlaps_are_those_of_born_and_so_are_gradients():
    q, k, v = heads()
    q[0, 0, 1] = 0.0
    q[0, 0, 1, 2] = 3.0  # a basis state: nodes without weight
    outs, slopes = [], []
    for kind in (Born(HEADS, WIDTH, floor=0.01), Circuit(HEADS, WIDTH, floor=0.01)):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = kind.attend_causal(*inputs)
        outs.append(out)
        slopes.append(torch.autograd.grad(out.square().sum(), inputs))
    assert_close(outs[1], outs[0], rtol=0.0, atol=1e-7)
    for found, expected in zip(slopes[1], slopes[0], strict=True):
        assert_close(found, expected, rtol=0.0, atol=1e-6)
    single = Circuit(HEADS, 16), Born(HEADS, 16)
    x, y, _ = heads(1, width=16, dtype=torch.float32)
    encoded = [(kind.overlaps, kind.encode(x), kind.encode(y)) for kind in single]
    found, expected = (overlaps(a, b) for overlaps, a, b in encoded)
    assert_close(found, expected, rtol=0.0, atol=1e-6)


def test_a_zero_vector_finds_nothing_as_with_born():
    q, k, v = heads(2)
    q[0, 0, 3] = 0.0
    for kind in (Born(HEADS, WIDTH), Circuit(HEADS, WIDTH)):
        q.requires_grad_()
        out = kind.attend(q, k, v)
        (slope,) = torch.autograd.grad(out.sum(), q)
        assert_close(out[0, 0, 3], v[0, 0].mean(0))  # the floor alone: all keys alike
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("choice", ["aer", "aer_noisy", "ibm"])
def test_shots_are_binomial_draws_of_the_exact_overlaps(quantum_config, choice):
    """Largest deviation and variance of the measured overlaps, over all pairs of several jobs."""
    shots, jobs = 2000, 4
    changes = {"shots": shots, "mitigation": False}
    if choice == "aer_noisy":
        changes |= {"device": None, "noise": CHANNELS["depolarizing"] | {"readout": 0.02}}
    elif choice == "ibm":
        changes |= {"device": "FakeGuadalupeV2", "twirling": False, "dynamical_decoupling": False}
    config = quantum_config(choice, **changes)
    kind = Circuit(HEADS, 4, quantum=config).eval()
    q, k = (kind.encode(x) for x in heads(3, batch=1, width=4)[:2])
    torch.manual_seed(0)
    measured = torch.stack([kind.overlaps(q, k).flatten() for _ in range(jobs)])  # (jobs, pairs)
    if choice == "ibm":  # the device's noise, exactly
        config = quantum_config("aer_noisy", device="FakeGuadalupeV2")
    expected = exact(config, q, k)
    # Hoeffding with Bonferroni's correction: all pairs at once, level 1e-6.
    bound = math.sqrt(math.log(2 * measured.numel() / 1e-6) / (2 * shots))
    assert float((measured - expected).abs().max()) < bound
    # Pearson's statistic, over the pairs that expect enough hits and misses to be nearly normal: one pair of
    # this batch expects a hit in 200 jobs, and its single hit would outweigh all others' deviations.
    common = torch.minimum(expected, 1 - expected) * shots >= 5
    p = expected[common]
    statistic = ((measured[:, common] - p).square() / (p * (1 - p) / shots)).sum()
    freedom = torch.tensor(jobs * int(common.sum()), dtype=torch.float64)
    below = torch.special.gammainc(freedom / 2, statistic / 2)  # distribution function of χ²
    assert 2 * float(torch.minimum(below, 1 - below)) > 1e-6


def exact(config, q, k):
    """P(all 0) of all pairs on a backend, noise included."""
    from qdreamer.quantum.backends.factory import make_backend
    from qdreamer.quantum.circuits.overlaps import OverlapTask

    a, b = (
        x.expand(*q.shape[:-1], k.shape[-2], -1).flatten(0, -2) for x in (q.unsqueeze(-2), k.unsqueeze(-3))
    )
    p = make_backend(config).probabilities(OverlapTask(a, b))
    return p[:, 0]


@pytest.mark.parametrize("channel", CHANNELS)
def test_each_channel_is_that_of_pennylanes_mixed_simulator(quantum_config, channel):
    config = quantum_config("pennylane", device="default.mixed", noise=CHANNELS[channel])
    kind = Circuit(1, 4, quantum=config)
    x, y, _ = heads(4, batch=1, width=4)
    q, k = kind.encode(x[0, :1, :2]), kind.encode(y[0, :1, :2])
    found = kind.overlaps(q, k).flatten()
    circuit, device = overlap_circuit(2), qml.device("default.mixed", wires=2)
    values = overlap_values(
        q.unsqueeze(-2).expand(1, 2, 2, 4).flatten(0, 2), k.unsqueeze(-3).expand(1, 2, 2, 4).flatten(0, 2)
    )

    @qml.qnode(device)
    def by_hand(row):
        """One circuit at a time, its channels written out after every gate."""
        for gate in circuit.gates:
            name = {"ry": qml.RY, "cx": qml.CNOT}[gate.name]
            name(*([row[gate.parameter]] if gate.parameter is not None else []), wires=gate.qubits)
            for wire in gate.qubits:
                strengths, two = CHANNELS[channel], len(gate.qubits) == 2
                if channel == "depolarizing":
                    lam = strengths["depolarizing_two" if two else "depolarizing_one"]
                    qml.DepolarizingChannel(0.75 * lam, wires=wire)
                elif channel == "amplitude damping":
                    qml.AmplitudeDamping(0.02, wires=wire)
                elif channel == "phase damping":
                    qml.PhaseDamping(0.05, wires=wire)
                elif channel == "thermal relaxation":
                    qml.ThermalRelaxationError(0.0, 50e-6, 70e-6, 300e-9 if two else 35e-9, wires=wire)
        if channel == "readout":
            for wire in range(2):
                qml.BitFlip(0.03, wires=wire)
        return qml.probs(wires=[0, 1])

    expected = torch.stack([torch.as_tensor(by_hand(row.numpy()))[0] for row in values])
    assert_close(found, expected.to(found), rtol=0.0, atol=1e-6)
    perfect = Born(1, 4).overlaps(q, k).flatten()
    assert float((found - perfect).abs().max()) > 1e-3


@pytest.mark.parametrize("qubits", [3, 4])
def test_overlaps_of_a_noisy_device_are_nearly_the_exact_ones(quantum_config, qubits):
    generator = torch.Generator().manual_seed(5)
    q, k = torch.randn(2, 8, 2**qubits, generator=generator, dtype=torch.float64)
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    noisy = exact(quantum_config("aer_noisy", device="FakeGuadalupeV2"), q, k)
    perfect = Born(1, 2**qubits).overlaps(q, k).flatten()
    assert float(torch.corrcoef(torch.stack([noisy, perfect]))[0, 1]) > 0.9


SMALL = (
    *("sequence=transformer", "attention=circuit", "sequence.head=4", "sequence.layers=1"),
    *("world_model.width=8", "world_model.units=8", "world_model.stoch=3", "world_model.classes=4"),
    *("train.batch_size=2", "train.batch_length=4", "train.replay_ratio=1", "train.prefill=20"),
    *("agent.imagination_starts=2", "evaluation.every=200", "evaluation.episodes=2", "evaluation.horizon=3"),
    *("evaluation.max_steps=8", "evaluation.context=2", "logging.writers=[jsonl]", "steps=60"),
)


def test_a_run_learns_by_circuits_and_acts_by_shots(make_config, tmp_path, monkeypatch):
    asked = []

    def count(module, name):
        old = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *arguments: asked.append(name) or old(*arguments))

    count(pennylane_backend, "overlap_node")  # what gradients pass through
    count(circuit, "run")  # shots
    run = Run(make_config(*SMALL, "quantum=aer", "quantum.shots=64"), tmp_path)
    assert isinstance(run.agent.world_model.rssm.sequence.blocks[0].attention.kind, Circuit)
    before = [p.clone() for p in run.agent.world_model.rssm.sequence.parameters()]
    run.train(Progress(60, 0, 0))
    run.close()
    after = list(run.agent.world_model.rssm.sequence.parameters())
    assert {"overlap_node", "run"} <= set(asked)
    assert sum(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) > 5


def test_settings_that_cannot_work_are_refused(make_config):
    with pytest.raises(ValueError, match="2, 4, 8"):
        Circuit(1, 6)
    with pytest.raises(ConfigError, match="power of two"):
        make_config("sequence=transformer", "attention=circuit", "attention.head=12")
    with pytest.raises(ConfigError, match="power of two for attention"):
        make_config("sequence=transformer", "attention=circuit", "sequence.head=6")
    with pytest.raises(ConfigError, match="FakeGuadalupeV2"):
        make_config("sequence=transformer", "attention=circuit", "quantum=ibm")
