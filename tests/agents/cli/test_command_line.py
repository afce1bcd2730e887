"""The command line: one clear line for what cannot run, before anything starts."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from qdreamer.agents.cli import command_line
from qdreamer.agents.cli.command_line import main, prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.overrides import CONFIGS
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.run_directory import run_directory, write_config
from qdreamer.configs.schema import ConfigError, build

ROOT = Path(__file__).parents[3]
Outcome = Callable[[list[str]], tuple[int | None, str]]

# (what follows `python train.py`, words that the error must have)
MALFORMED = [
    # unknown keys
    ("sed=1", ["unknown key sed", "did you mean seed?"]),
    ("batch_size=3", ["unknown key batch_size", "did you mean train.batch_size?"]),
    ("optimizer.rl=1", ["unknown key optimizer.rl", "did you mean optimizer.lr?"]),
    ("agent=classical optimizer.every=9", ["unknown key optimizer.every, which optimizer=hybrid has"]),
    ("agent.lambda=0.9", ["unknown key agent.lambda", "did you mean agent.lambda_?"]),
    ("agent.loss_scales.polcy=1", ["did you mean agent.loss_scales.policy?"]),
    ("foo=1", ["unknown key foo", "--cfg job shows all keys"]),
    ("+foo=1", ["unknown key foo"]),
    ("++foo=1", ["unknown key foo"]),
    ("+optimizer.foo=1", ["unknown key optimizer.foo", "optimizer has name, lr, beta1"]),
    ("++train.bacth_size=4", ["did you mean train.batch_size?"]),
    ("env@second=CartPole", ["env@second=CartPole", "write env=…"]),
    ("agent.name=other", ["agent.name=other", "agent=…", "classical"]),
    ("hydra.foo=1", ["hydra.foo"]),
    ("hydra.verbose=true", ["hydra.verbose=true", "only composes"]),
    # groups
    ("env=CartPol", ["env=CartPol is not one of", "did you mean CartPole?"]),
    ("env=cartpole", ["did you mean CartPole?"]),
    ("env=FrozenLake-v1", ["env=gym env.id=FrozenLake-v1"]),
    ("world_model=2M", ["world_model=2M is not one of", "did you mean 12M?"]),
    ("agent=classic", ["did you mean classical?"]),
    ("sequence=gur", ["did you mean gru?"]),
    ("replay=unifrom", ["did you mean uniform?"]),
    ("optimizer=adam", ["optimizer=adam is not one of hybrid, laprop"]),
    ("optimizer=null", ["optimizer=null is not one of hybrid, laprop"]),
    ("agent=[classical,classical]", ["agent takes one choice"]),
    ("env=CartPole,Acrobot", ["add -m"]),
    ("env=gym", ["env.id must be given, as env.id=…"]),
    # twice
    ("seed=1 seed=2", ["seed is given twice (seed=1 and seed=2)"]),
    ("seed=1 ++seed=2", ["seed is given twice"]),
    ("env=CartPole env=Acrobot", ["env is given twice"]),
    # out of range
    ("seed=-1", ["seed=-1 must be at least 0"]),
    ("seed=99999999999", ["seed=99999999999"]),
    ("steps=0", ["steps=0 must be at least 1"]),
    ("optimizer.lr=-1", ["optimizer.lr=-1 must be greater than 0"]),
    ("optimizer.lr=0", ["optimizer.lr=0 must be greater than 0"]),
    ("optimizer.lr=nan", ["optimizer.lr=nan must be finite"]),
    ("optimizer.lr=1e400", ["must be finite"]),
    ("optimizer.beta2=1.0", ["optimizer.beta2=1 must be less than 1"]),
    ("agent.lambda_=2", ["agent.lambda_=2 must be at most 1"]),
    ("world_model.classes=1", ["world_model.classes=1 must be at least 2"]),
    ("world_model.unimix=1", ["world_model.unimix=1 must be at most 0.5"]),
    ("threads=0", ["threads=0 must be at least 1"]),
    ("train.batch_length=1", ["train.batch_length=1 must be at least 2"]),
    ("agent.imagination_starts=64", ["agent.imagination_starts=64", "train.batch_length=16"]),
    ("train.batch_length=4", ["agent.imagination_starts=8", "train.batch_length=4"]),
    ("replay.capacity=10", ["replay.capacity=10", "17 are needed"]),
    ("evaluation.episodes=0", ["evaluation.episodes=0 must be at least 1"]),
    ("env.num_envs=0", ["env.num_envs=0 must be at least 1"]),
    ("env.max_episode_steps=0", ["env.max_episode_steps=0 must be at least 1, or null"]),
    (
        "sequence=gru sequence.deter=100 sequence.blocks=8",
        ["sequence.deter=100", "multiple of sequence.blocks=8"],
    ),
    ("agent.min_std=2", ["agent.min_std=2.0 must not exceed agent.max_std=1.0"]),
    ("agent.return_percentiles=[95,5]", ["agent.return_percentiles=[95.0, 5.0] must rise"]),
    ("world_model.posterior=couple", ["coupled, decoupled", "did you mean coupled?"]),
    # wrong types
    ("steps=ten", ["steps=ten must be a whole number"]),
    ("seed=1.5", ["seed=1.5 must be a whole number"]),
    ("seed=true", ["seed=true must be a whole number"]),
    ("seed=null", ["seed=null must be a whole number"]),
    ("seed=", ["seed= must be a whole number"]),
    ("seed=???", ["seed must be given"]),
    ("optimizer.lr=fast", ["optimizer.lr=fast must be a number"]),
    ("replay=uniform replay.online=maybe", ["replay.online=maybe must be true or false"]),
    ("runs=null", ["runs=null must be a word"]),
    ("env.hide=3", ["env.hide=3 must be a list, as env.hide=[…]"]),
    ("env.hide=1,3", ["add -m", "a list is written env.hide=[…]"]),
    ("agent.return_percentiles=[5]", ["agent.return_percentiles=[5] must have 2 entries"]),
    ("world_model.image.scale=1", ["as world_model.image.scale.pixels=… (it has pixels, redundancy)"]),
    ("train=3", ["train=3 replaces a whole section", "as train.batch_size=…"]),
    ("train={batch_size:8}", ["replaces a whole section", "as train.batch_size=…"]),
    ("env.kwargs={sutton_barto:true}", ["did you mean sutton_barto_reward?"]),
    ("env.entries.observation=picture", ["picture is not one of image, vector, ignore"]),
    ("env.entries.observations=ignore", ["names no entry of the observation; they are observation"]),
    ("env.entries.observation=image", ["is not an image"]),
    ("env.entries.observation=ignore", ["no entry of the observation is left"]),
    ("env.image_size=200", ["env.image_size=200 must be at most 96"]),
    ("env.wrappers=[nothing]", ["as my.module:MyWrapper"]),
    ("world_model.image.depth=0", ["world_model.image.depth=0 must be at least 1"]),
    # syntax and options
    ("foo", ["cannot read 'foo'", "key=value"]),
    ("CartPole", ["did you mean env=CartPole?"]),
    ("=3", ["cannot read '=3'", "key=value"]),
    ("steps==3", ["cannot read 'steps==3'", "key=value"]),
    ("steps=[1", ["cannot read 'steps=[1'"]),
    ("seed = 3", ["cannot read 'seed'"]),
    ("''", ["cannot read ''"]),
    ("~seed", ["~seed", "cannot be removed"]),
    ("~optimizer", ["~optimizer", "cannot be removed"]),
    ("--foo", ["unknown option --foo", "--help"]),
    ("--seed=3", ["unknown option --seed=3", "without dashes, as seed=3"]),
    ("--multi seed=0,1", ["did you mean --multirun?"]),
    ("--cfg jobs", ["--cfg jobs is not one of job"]),
    ("--cfg job foo=1", ["unknown key foo"]),
    ("--cfg job --resolve 'steps=${nothing}'", ["steps cannot be resolved"]),
    ("--cfg job -m", ["leave out -m"]),
    ("--resolve", ["--cfg job --resolve"]),
    ("--help foo=1", ["unknown key foo"]),
    ("'steps=${nothing}'", ["steps cannot be resolved", "nothing"]),
    ("'seed=${oc.env:NO_SUCH_VARIABLE}'", ["seed cannot be resolved", "NO_SUCH_VARIABLE"]),
    ("'seed=${'", ["cannot read"]),
    # environments
    ("env.id=CartPole-v9", ["env.id=CartPole-v9", "did you mean CartPole-v1?"]),
    ("env.id=Cartpole-v1", ["did you mean CartPole-v1?"]),
    ("env.id=LunarLander-v2", ["did you mean LunarLander-v3?"]),
    ("env.id=Foo", ["env.id=Foo is not a registered environment"]),
    ("env.id=no_such_module:Foo-v0", ["cannot be imported", "no_such_module"]),
    ("env.hide=[4]", ["env.hide=[4]", "from 0 to 3"]),
    ("env.hide=[-1]", ["env.hide[0]=-1 must be at least 0"]),
    ("env.hide=[0,1,2,3]", ["leave at least one"]),
    ("env.hide=[1,1]", ["different indices"]),
    ("env=gym env.id=FrozenLake-v1 env.hide=[0]", ["env.hide needs a vector observation"]),
    ("env.kwargs.nonsense=1", ["env.kwargs.nonsense", "it takes sutton_barto_reward"]),
    ("env.kwargs.sutton_barto=true", ["did you mean sutton_barto_reward?"]),
    ("env.kwargs.render_mode=human", ["env.kwargs.render_mode", "rgb_array"]),
    ("env.kwargs.max_episode_steps=9", ["set env.max_episode_steps instead"]),
    ("env=gym env.id=FrozenLake-v1 env.kwargs.map_name=9x9", ["map_name=9x9", "KeyError: '9x9'"]),
    ("env=Pendulum env.kwargs.g=heavy", ["failed in step 1", "env.kwargs.g=heavy"]),
    # device, folders, resuming
    ("device=cuda:77", ["device=cuda:77 is not available here", "cpu"]),
    ("device=tpu", ["device=tpu is not one of cpu, cuda"]),
    ("device=meta", ["device=meta is not one of cpu, cuda"]),
    (f"runs={Path(__file__)}/below", ["is not a folder that can be written to"]),
    ("runs=", ["runs= names no folder"]),
    ("resume=/nonexistent", ["/nonexistent is not a run directory"]),
    ("resume=/nonexistent seed=3", ["takes seed from the run", "steps, device, threads"]),
    ("resume=/nonexistent env=Acrobot", ["takes env from the run"]),
    ("resume=3", ["resume=3 must be a word, or null"]),
    # sweeps: every member counts
    ("-m seed=0,1 optimizer.lr=1e-3,-1", ["optimizer.lr=-1 must be greater than 0"]),
    ("-m env=CartPole,Acrobo", ["did you mean Acrobot?"]),
    ("-m env.hide=[1],[9]", ["env.hide=[9]"]),
    ("-m env.id=CartPole-v1,Foo", ["env.id=Foo"]),
    ("-m 'seed=range(0,5000)'", ["more than 1000 runs"]),
    ("-m 'seed=range(0,0)'", ["has no values"]),
    ("-m 'seed=interval(0,1)'", ["seed=a,b,c"]),
    ("-m 'env=glob(*)'", ["env=a,b,c"]),
    ("-m seed=0,0", ["two runs of the sweep", "seed_0", "they are the same run"]),
    ("-m steps=3000,4000", ["two runs of the sweep", "they are the same run, so give steps one value"]),
    ("-m seed=0,1 launcher=slrum", ["launcher=slrum is not one of", "did you mean slurm?"]),
    ("-m seed=0,1 launcher=local,slurm", ["one launcher"]),
    ("-m seed=0,1 launcher.jobs=0", ["launcher.jobs=0 must be at least 1"]),
    ("-m seed=0,1 launcher.job=2", ["unknown key launcher.job", "did you mean launcher.jobs?"]),
    ("-m seed=0,1 launcher=slurm", ["launcher=slurm", "launcher=local"]),
    ("-m seed=0,1 hydra/launcher=basic", ["launcher=local"]),
    ("launcher=slurm", ["add -m"]),
]

VALID = [
    "",
    "seed=3 steps=1000",
    "+seed=3 ++steps=1000",
    "env=Acrobot",
    "env=CartPole env.hide=[1,3]",
    "env=CartPole env.kwargs.sutton_barto_reward=true",
    "++env.kwargs.sutton_barto_reward=true",
    "env.kwargs={sutton_barto_reward:true} env.repeat=2",
    "env=gym env.id=Blackjack-v1 env.entries.0=vector env.entries.2=ignore",
    "env=gym env.id=CarRacing-v3 world_model.entry_scales.observation=0.2 world_model.image.depth=2",
    "env=gym env.id=FrozenLake-v1",
    "env=gym env.id=FrozenLake-v1 env.kwargs.map_name=8x8 env.kwargs.is_slippery=false",
    "world_model=1M world_model.posterior=decoupled",
    "world_model=50M agent=classical sequence.blocks=4",
    "steps=1e4 optimizer.lr=1",
    "'steps=${env.steps}' device=cpu",
    "env.max_episode_steps=null env.solved=null",
    "agent.return_percentiles=[10,90] agent.loss_scales.policy=0.5",
    "-m seed=0,1",
    "-m seed=0,1 launcher.jobs=2",
    "seed=0,1 -m env=CartPole,Acrobot",
    "--multirun 'seed=range(0,4)' env.hide=[1],[1,3]",
    "--cfg job",
    "--cfg=job --resolve seed=4",
    "-c job env=gym",
    "--help",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may find or leave anything in the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Outcome:
    """main() up to the point where training or the sweep begins: exit code (None if there), stderr."""

    def run(arguments: list[str]) -> tuple[int | None, str]:
        monkeypatch.setattr(command_line, "run_session", lambda config, directory, ranks: 0)
        monkeypatch.setattr(command_line.Sweep, "run", lambda self: 0)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capfd.readouterr()
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), capfd.readouterr().err
        return None, capfd.readouterr().err

    return run


def test_there_are_enough_malformed_lines() -> None:
    assert len({line for line, _ in MALFORMED}) == len(MALFORMED) >= 32


@pytest.mark.parametrize("line", ["env.train=1", "agent.optimizer=1", "optimizer.defaults=1"])
def test_no_choice_is_named_that_lacks_the_key(line: str, run_main: Outcome) -> None:
    """Presets set other sections, and Hydra's own words are no settings."""
    code, err = run_main([line])
    assert code == 2 and err.startswith("error: unknown key ") and ", which" not in err


@pytest.mark.parametrize(("line", "words"), MALFORMED, ids=[line for line, _ in MALFORMED])
def test_malformed(line: str, words: list[str], run_main: Outcome, tmp_path: Path) -> None:
    code, err = run_main(shlex.split(line))
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]
    assert not list(tmp_path.iterdir()), "a refused line leaves nothing behind"


@pytest.mark.parametrize("line", VALID)
def test_valid(line: str, run_main: Outcome, tmp_path: Path) -> None:
    assert run_main(shlex.split(line)) == (None, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "env=Pendulum world_model=1M seed=7",
        "+train.batch_size=4 ++agent.loss_scales.policy=2",
        "env.hide=[1,3] env.solved=null",
        "env.kwargs.sutton_barto_reward=true 'runs=\"a b\"'",
        "'steps=${evaluation.every}'",
    ],
)
def test_checks_what_hydra_composes(line: str) -> None:
    """The quick composition must not differ from Hydra's."""
    texts = list(prepare(shlex.split(line)).members[0].arguments)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("config", overrides=texts)
    by_hydra = build(Config, OmegaConf.to_container(composed, resolve=True))
    assert load_config(texts) == by_hydra


def test_load_config_takes_the_values() -> None:
    config = load_config(["env=Acrobot", "optimizer.lr=3e-4", "env.kwargs.a={b:[1,2]}"])
    assert config.env.id == "Acrobot-v1"
    assert config.optimizer.lr == 3e-4
    assert config.steps == config.env.steps
    assert config.env.kwargs == {"a": {"b": [1, 2]}}
    assert load_config([]).optimizer.lr != 3e-4, "one composition must not leak into the next"


def test_outdated_environments_warn_once_in_one_line(
    run_main: Outcome,
) -> None:
    code, err = run_main(shlex.split("-m seed=0,1 env.id=CartPole-v0 env.num_envs=3"))
    assert code is None
    assert err.count("\n") == 1
    assert err.startswith("warning: ") and "CartPole-v0 is out of date" in err
    code, err = run_main(["env.id=CartPole-v0", "env.hide=[9]"])
    assert code == 2
    assert err.count("\n") == 1 and err.startswith("error: ")


class _Odd(gymnasium.Env):
    """Begins with what `first` says, accepts any box that `high` says."""

    def __init__(self, first: float = 0.0, high: float = 1.0) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-high, high, (1,), np.float32)
        self._first = np.full(2, first, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._first.copy(), {}

    def step(self, action):
        return self._first.copy(), 0.0, False, False, {}


@pytest.fixture
def odd() -> Iterator[str]:
    gymnasium.register("Odd-v0", entry_point=_Odd)
    yield "Odd-v0"
    del gymnasium.registry["Odd-v0"]


@pytest.mark.parametrize(
    ("kwarg", "word"),
    [("high=inf", "without finite bounds"), ("first=nan", "not finite"), ("frist=1", "did you mean first?")],
)
def test_own_environments(odd: str, kwarg: str, word: str, run_main: Outcome) -> None:
    assert run_main([f"env.id={odd}"]) == (None, "")
    code, err = run_main([f"env.id={odd}", f"env.kwargs.{kwarg}"])
    assert code == 2 and word in err and err.count("\n") == 1


def test_resume_keeps_the_run_and_changes_what_is_free(tmp_path: Path) -> None:
    overrides = ["env=Pendulum", "optimizer.lr=2e-4", "env.hide=[2]", "logging.writers=[jsonl]"]
    config = load_config([*overrides, f"runs={tmp_path}/a, b=ü"])
    directory = run_directory(config, "Pendulum", overrides)
    write_config(directory, config)
    line = [f"resume={directory}", "steps=77", "logging.every=5"]
    (member,) = prepare(line).members
    assert member.arguments[1:] == tuple(line[1:])
    assert member.directory == directory
    resumed = member.config
    assert resumed.steps == 77
    assert resumed.logging.every == 5
    assert resumed.logging.writers == ("jsonl",), "keys that were not given stay as they were"
    assert (resumed.env, resumed.optimizer) == (config.env, config.optimizer)
    shown = OmegaConf.to_container(OmegaConf.create(prepare([*line, "--cfg", "job"]).text))
    assert build(Config, shown) == resumed
    for learning in ("optimizer.lr=1e-3", "seed=1", "env.hide=[1]", "world_model=1M", "train.batch_size=4"):
        with pytest.raises(ConfigError, match=f"takes {learning.split('=')[0]} from the run"):
            prepare([*line, learning])
    with pytest.raises(ConfigError, match="are the same run, so give steps one value"):
        prepare(["-m", line[0], "steps=350,400"])
    (directory / "config.yaml").write_text("seed: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        prepare(line)


def test_preparation_is_fast() -> None:
    prepare([])
    begin = time.process_time()
    for _ in range(5):
        prepare(["seed=1", "optimizer.lr=1e-4"])
    assert (time.process_time() - begin) / 5 < 0.5
    begin = time.process_time()
    prepare(["-m", "seed=range(0,50)"])
    assert time.process_time() - begin < 10.0


@pytest.mark.parametrize(
    ("overrides", "weight"),
    [
        ("", 0.1),
        ("world_model=12M", 0.1),
        ("sequence=transformer", 0.01),
        ("agent=classical sequence=transformer attention=born", 0.01),
        ("agent=classical", 0.1),
        ("sequence=gru", 0.1),
        ("agent=classical_with_replay", 0.1),
        ("world_model.loss_scales.representation=0.3", 0.3),
    ],
)
def test_a_sequence_model_brings_its_posteriors_weight(overrides: str, weight: float) -> None:
    config = load_config(overrides.split())
    assert config.world_model.loss_scales["representation"] == weight
    assert config.world_model.loss_scales["dynamics"] == 1.0
