"""Settings that nothing reads, and sizes beyond reason: one line each."""

import shlex
import sys
from pathlib import Path

import pytest

from qdreamer.agents.cli import command_line
from qdreamer.agents.cli.command_line import main, prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.rehearsal import keys_read
from qdreamer.configs.recording import leaves, recording
from qdreamer.configs.schema import ConfigError

# (what follows `python train.py`, words that the error must have)
SILENT = [
    # groups that the resolved run has no place for
    (
        "agent=classical attention=born quantum=aer",
        ["attention=born has no effect: attention is read only by sequence=gru_attention, transformer",
         "quantum=aer has no effect: quantum is read only by replay=quantum or optimizer=hybrid"],
    ),
    ("agent=classical attention=softmax", ["sequence=gru_attention, transformer"]),
    ("sequence=gru attention=born", ["attention=born has no effect"]),
    ("agent=classical_with_replay attention=ffm", ["attention=ffm has no effect"]),
    ("agent=classical quantum=aer", ["replay=quantum or optimizer=hybrid"]),
    ("replay=uniform optimizer=laprop quantum=aer", ["quantum=aer has no effect"]),
    ("replay=prioritized optimizer=hybrid optimizer.solver=exact quantum=aer", ["quantum=aer has no effect"]),
    # settings of parts
    ("agent=classical attention.noise=0.1", ["attention.noise is read only by sequence="]),
    ("agent=classical attention.head=32", ["attention.head"]),
    ("attention.heads=2", ["attention.heads is read only by sequence=transformer"]),
    ("attention.curriculum.first=0.5", ["attention.curriculum.first=0.5 has no effect"]),
    ("attention.curriculum.ramp=linear", ["attention.curriculum.ramp=linear has no effect"]),
    ("world_model.width=64", ["world_model.width is read only by sequence=transformer"]),
    ("world_model.depth=2", ["sequence=transformer"]),
    ("world_model.deter=64", ["world_model.deter is read only by sequence=gru"]),
    ("sequence=transformer world_model.core=64", ["sequence=gru_attention"]),
    ("sequence=gru world_model.memory=16", ["sequence=gru_attention"]),
    ("world_model.hidden=32 sequence.hidden=48", ["world_model.hidden=32 has no effect"]),
    ("world_model.lr=1e-3 optimizer.lr=1e-4", ["world_model.lr=1e-3 has no effect: optimizer.lr=1e-4 repl"]),
    ("world_model.warmup=10 optimizer.warmup=20", ["world_model.warmup=10 has no effect"]),
    ("world_model.posterior=coupled sequence.posterior=decoupled", ["sequence.posterior=decoupled has no"]),
    ("world_model.image.depth=8", ["world_model.image.depth=8 has no effect"]),
    ("world_model.image.kernel=5", ["world_model.image.kernel"]),
    ("world_model.image.objective=redundancy", ["world_model.image.objective"]),
    ("world_model.image.scale.pixels=0.2", ["world_model.image.scale.pixels"]),
    ("env=gym env.id=FrozenLake-v1 world_model.standardize=false", ["world_model.standardize"]),
    ("agent.min_std=0.2", ["agent.min_std=0.2 has no effect"]),
    ("agent.max_std=2", ["agent.max_std=2 has no effect"]),
    ("agent.entropy.continuous=0.1", ["agent.entropy.continuous"]),
    ("env=Pendulum agent.entropy.discrete=0.1", ["agent.entropy.discrete"]),
    ("env=Pendulum agent.unimix=0.02", ["agent.unimix=0.02 has no effect"]),
    ("replay.temperature=2", ["replay.temperature is read only by replay.transform=boltzmann"]),
    ("replay.prepare=[0.1,10]", ["replay.transform=rotation"]),
    ("replay.depreciate=[0.1,10]", ["replay.transform=rotation"]),
    ("replay.transform=rank replay.offset=0.1", ["replay.offset", "replay.transform=power, rotation"]),
    ("replay.transform=boltzmann replay.alpha=0.1", ["replay.alpha", "replay.transform=power, rank"]),
    ("replay.decay=0.5", ["replay.decay is read only by replay=curious"]),
    ("replay=prioritized replay.beta=[1,1] replay.beta_updates=9", ["replay.beta_updates=9 has no effect"]),
    ("replay.qubits=4", ["replay.qubits is read only by quantum=aer"]),
    ("replay.shots=100", ["replay.shots is read only by quantum=aer"]),
    ("replay.reuse=2", ["replay.reuse=2 has no effect"]),
    ("replay.wait=true", ["replay.wait=true has no effect"]),
    ("optimizer=hybrid optimizer.wait=true", ["optimizer.wait is read only by quantum=aer"]),
    ("optimizer=hybrid optimizer.patience=9", ["optimizer.patience=9 has no effect"]),
    ("optimizer=hybrid optimizer.solver=exact optimizer.p_layers=1", ["read only by optimizer.solver=qaoa"]),
    ("optimizer=hybrid optimizer.solver=random optimizer.angles=ramp", ["optimizer.angles"]),
    ("agent=classical quantum.shots=512", ["quantum.shots is read only by optimizer=hybrid"]),
    (
        "agent=classical replay=quantum quantum=aer quantum.shots=64",
        ["quantum.shots is read only by optimizer=hybrid; this run reads replay.shots"],
    ),
    ("quantum.method=statevector", ["quantum.method is read only by"]),
    ("quantum.optimization_level=1", ["quantum.optimization_level"]),
    ("quantum.timeout=5", ["quantum.timeout is read only by"]),
    ("quantum.retries=5", ["quantum.retries"]),
    ("quantum.budget_shots=100", ["quantum.budget_shots"]),
    ("quantum.min_fidelity=0.9", ["quantum.min_fidelity=0.9 has no effect"]),
    ("attention=sampled attention.error=0.1", ["attention.error is read only by attention.strategy=ad"]),
    # generated weights and heads
    ("weights.scale=none", ["weights.scale is read only by weights=frozen_circuit, hashed"]),
    ("heads.modules=[critic]", ["heads.modules is read only by heads=quantum"]),
    ("heads=quantum heads.path=mlp heads.shots=9", ["heads.shots is read only by heads.path=circuit"]),
    ("heads=quantum heads.path=zeroed heads.gradient=0", ["read only by heads.path=circuit"]),
    # the loop
    ("logging.writers=[jsonl] logging.video_every=100", ["logging.video_every=100 has no effect"]),
    ("logging.writers=[jsonl] logging.pictures_every=100", ["logging.pictures_every=100 has no effect"]),
    ("env.steps=400 steps=500", ["env.steps=400 has no effect: steps=500 replaces it"]),
    # sweeps: nobody reads it
    ("-m agent=classical,classical_with_replay attention=coherent,born", ["attention=born has no"]),
    (
        "-m agent=classical optimizer=laprop,hybrid optimizer.solver=exact optimizer.p_layers=1",
        ["optimizer.p_layers=1 has no effect", "optimizer.solver=qaoa"],
    ),
    ("-m agent=classical,hybrid optimizer.evry=25", ["unknown key optimizer.evry"]),
    ("-m agent=classical seed=0,1 attention.noise=0.1,0.2", ["attention.noise=0.1 has no effect"]),
]  # fmt: skip

BEYOND = [
    (
        "replay.beta=[0.4,1]",
        ["replay.beta=[0.4,1] moves within replay.beta_updates=0", "replay.beta=[0.4,0.4]"],
    ),
    ("steps=200", ["train.prefill=256 leaves nothing to learn in steps=200", "train.prefill=100"]),
    ("steps=1000 train.prefill=1000", ["train.prefill=1000 leaves nothing to learn"]),
    ("steps=1000 evaluation.every=1001", ["evaluation.every=1001 never comes in steps=1000"]),
    ("world_model.units=100000", ["world_model.units=100000 must be at most 65536"]),
    ("world_model.encoder_layers=1000", ["must be at most 64"]),
    ("sequence=gru sequence.deter=65536", ["GB for weights", "world_model=12M"]),
    ("world_model.bins=100001", ["must be at most 10001"]),
    ("agent.imagination_horizon=100000", ["must be at most 1000"]),
    ("agent.actor_layers=99", ["must be at most 64"]),
    ("train.batch_size=1e6", ["must be at most 65536"]),
    ("train.batch_length=1e6", ["must be at most 65536"]),
    ("train.replay_ratio=1e9", ["must be at most 1"]),
    ("sequence.window=1e6", ["must be at most 65536"]),
    ("env.num_envs=1e6", ["must be at most 4096"]),
    ("env.repeat=1e6", ["must be at most 10000"]),
    ("evaluation.episodes=1e6", ["must be at most 10000"]),
    ("evaluation.horizon=1e6", ["must be at most 10000"]),
    ("optimizer.lr=100", ["must be at most 10"]),
    ("weights=hashed weights.modules=[]", ["weights.modules=[] must name at least 1"]),
    ("heads=quantum heads.modules=[]", ["heads.modules=[] must name at least 1"]),
    ("weights=projection weights.nonzeros=900", ["weights.nonzeros=900 must be less than"]),
    (
        "weights=quantum_train weights.mapping=[] weights.activation=relu",
        ["weights.activation=relu has no effect: weights.mapping=[]"],
    ),
    ("logging.video_frames=1e9", ["must be at most 10000"]),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("line", "words"), SILENT + BEYOND, ids=[line for line, _ in SILENT + BEYOND])
def test_refused_in_one_line(
    line: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(command_line, "run_session", lambda *run: pytest.fail("it was accepted"))
    monkeypatch.setattr(command_line.Sweep, "run", lambda self: pytest.fail("it was accepted"))
    monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    for word in words:
        assert word in err
    assert not list(tmp_path.iterdir())


def test_there_are_sixty() -> None:
    assert len({line for line, _ in SILENT + BEYOND}) == len(SILENT + BEYOND) >= 60


def test_presets_may_set_what_an_agent_does_not_read() -> None:
    """pairs.yaml sets world_model.core, which the GRU of classical does not read."""
    (member,) = prepare(["env=pairs", "agent=classical"]).members
    assert member.config.world_model.core == 128


def test_a_sweep_runs_once_what_differs_in_nothing_that_is_read() -> None:
    plan = prepare(shlex.split("-m agent=classical,hybrid attention=coherent,born seed=0,1"))
    names = [str(member.directory.relative_to("runs/CartPole")) for member in plan.members]
    assert names == [
        "classical/seed_0", "classical/seed_1",
        "hybrid+attention=coherent/seed_0", "hybrid+attention=coherent/seed_1",
        "hybrid+attention=born/seed_0", "hybrid+attention=born/seed_1",
    ]  # fmt: skip
    (note,) = plan.notes
    assert note.startswith("2 of 8 runs differ from others only in what they do not read (attention)")


@pytest.mark.parametrize(
    "line",
    [
        "agent=classical replay=quantum quantum=statevector",
        "agent=classical replay=quantum world_model.width=128",
    ],
)
def test_a_default_may_be_written_out(line: str) -> None:
    """The run is the one without it."""
    (member,) = prepare(shlex.split(line)).members
    assert member.arguments == ("agent=classical", "replay=quantum")


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (
            "-m agent=classical,hybrid_with_optimizer optimizer.every=25,50",
            ["agent=classical", "agent=hybrid_with_optimizer optimizer.every=25",
             "agent=hybrid_with_optimizer optimizer.every=50"],
        ),
        (
            "-m sequence=gru,gru_attention sequence.window=8,16",
            ["sequence=gru", "sequence=gru_attention sequence.window=8",
             "sequence=gru_attention sequence.window=16"],
        ),
        (
            "-m replay=uniform,prioritized replay.alpha=0.5,0.8",
            ["replay=uniform", "replay=prioritized replay.alpha=0.5", "replay=prioritized replay.alpha=0.8"],
        ),
    ],
)  # fmt: skip
def test_a_sweep_may_set_what_some_of_its_runs_do_not_know(line: str, arguments: list[str]) -> None:
    plan = prepare(shlex.split(line))
    assert [" ".join(member.arguments) for member in plan.members] == arguments
    (note,) = plan.notes
    key = line.split()[-1].partition("=")[0]
    assert note == (
        f"1 of 4 runs differs from another only in what it does not read ({key}): the two are one run"
    )


def test_a_sweep_keeps_what_one_of_its_runs_reads() -> None:
    plan = prepare(shlex.split("-m sequence=gru,transformer world_model.width=64"))
    assert [member.arguments for member in plan.members] == [
        ("sequence=gru",),
        ("sequence=transformer", "world_model.width=64"),
    ]
    assert plan.notes == ()


def test_widths_that_fit_no_memory_are_refused_without_taking_it() -> None:
    with pytest.raises(ConfigError, match="GB for weights"):
        keys_read(load_config(["world_model.core=65536", "world_model.width=65536"]))


def test_a_recording_is_a_config_that_notes_what_is_read() -> None:
    config = load_config(["env.kwargs.a={b:1}"])
    view, read = recording(config)
    assert isinstance(view, type(config)) and not read
    assert view.optimizer.lr == config.optimizer.lr and read == {"optimizer.lr"}
    assert view.agent.entropy["discrete"] == config.agent.entropy["discrete"]
    assert {**view.env.kwargs}["a"]["b"] == 1
    assert read == {"optimizer.lr", "agent.entropy.discrete", "env.kwargs.a.b", "env.kwargs.a"}
    assert view.agent.loss_scales | {} == config.agent.loss_scales
    assert {key for key in leaves(config) if key.startswith("agent.loss_scales.")} <= read
