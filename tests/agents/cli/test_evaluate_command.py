"""python evaluate.py: the report, the video, and one clear line for what cannot be."""

import re
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from qdreamer.agents.cli import evaluate_command
from qdreamer.agents.cli.command_line import prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.checkpoint import NAME
from qdreamer.agents.training import observer
from qdreamer.agents.training.loading import load
from qdreamer.agents.training.session import run_session
from qdreamer.envs.factory import EnvError

SMALL = [
    "world_model.units=8", "world_model.deter=8", "world_model.hidden=8", "world_model.stoch=2",
    "train.batch_size=2", "train.batch_length=8", "train.replay_ratio=8", "train.prefill=40",
    "agent.imagination_starts=4", "evaluation.every=60", "evaluation.episodes=2", "evaluation.horizon=5",
    "logging.writers=[jsonl]", "logging.video_frames=5", "steps=60",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    assert run_session(load_config(SMALL), directory) == 0
    return directory


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
    evaluate_command.main()


def test_report_and_video(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(monkeypatch, str(run), "--episodes", "4")
    out = capsys.readouterr().out
    returns = [float(x) for x in re.findall(r"returns: (.*)", out)[0].split()]
    assert len(returns) == 4
    mean, low, high = map(
        float, re.findall(r"mean return ([\d.]+) \[95 % interval ([\d.]+), ([\d.]+)\]", out)[0]
    )
    assert mean == pytest.approx(sum(returns) / 4, abs=0.0501)  # printed with one digit
    assert low <= mean <= high
    assert (run / "videos" / "evaluation_1.gif").read_bytes()[:4] == b"GIF8"
    evaluate(monkeypatch, str(run), "--episodes", "4", "--no-video")
    assert re.findall(r"returns: (.*)", capsys.readouterr().out)[0].split() == [f"{x:g}" for x in returns]


def test_a_full_disk_costs_the_video_alone(
    run: Path, full_disk: AbstractContextManager[None], capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk:
        evaluate_command.main([str(run), "--episodes", "1", "--seed", "77"])
    assert "no video: [Errno 27] File too large" in capsys.readouterr().out


def test_the_best_policy_is_kept_and_judged_on_fresh_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = iter([5.0, 9.0, 7.0])
    monkeypatch.setattr(observer, "mean_and_interval", lambda _: ((mean := next(scores)), mean, mean))
    words = [word for word in SMALL if not word.startswith(("steps", "evaluation.every"))]
    assert run_session(load_config([*words, "steps=60", "evaluation.every=20"]), tmp_path) == 0
    assert "best:     9.0 at step 40: add --best" in capsys.readouterr().out
    best, last = checkpoint.load_best(tmp_path), checkpoint.load(tmp_path)
    assert (best["step"], best["return"], last["step"]) == (40, 9.0, 60)
    assert last["observer"]["best"] == (40, 9.0)
    kept = best["learner"]["agent"]
    assert kept.keys() == last["learner"]["agent"].keys()
    assert any(not kept[name].equal(value) for name, value in last["learner"]["agent"].items())
    evaluate(monkeypatch, str(tmp_path), "--best", "--episodes", "2", "--no-video")
    assert re.search(r"\(episode set 1, mode actions, best policy\)", capsys.readouterr().out)
    with (tmp_path / checkpoint.BEST).open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, str(tmp_path), "--best")
    assert "is not what was written" in capsys.readouterr().err
    (tmp_path / checkpoint.BEST).unlink()
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, str(tmp_path), "--best")
    assert "kept from the first evaluation on" in capsys.readouterr().err


def test_other_episodes_than_those_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Longer ones with more pairs, and a longer memory; but nothing that the agent cannot see."""
    memory = ["env=pairs", "agent=classical_with_attention", "world_model.core=8", "world_model.memory=16"]
    settings = [*memory, *(word for word in SMALL if "deter" not in word), "env.num_envs=2"]
    assert run_session(load_config(settings), tmp_path) == 0
    capsys.readouterr()
    changes = "env.kwargs.pairs=8", "env.kwargs.asks=3", "env.kwargs.delay=30", "sequence.window=48"
    evaluate(monkeypatch, str(tmp_path), "--no-video", "--episodes", "2", *changes)
    out = capsys.readouterr().out
    assert "lengths: 44 to 44 steps" in out
    assert " ".join(changes) in out
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, str(tmp_path), "--no-video", "env.kwargs.key_bits=4")
    assert (
        "there is observation: vector of 8; action: one of 4, not observation: vector of 7"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent"], "is not a run directory: it does not exist"),
        (["BESIDE"], "it does not exist; there are RUN"),
        (["ABOVE"], "it has no config.yaml; there are RUN"),
        (["RUN", "--episodes", "0"], "--episodes must be at least 1"),
        (["RUN", "--seed", "-1"], "--seed must be from 0"),
        (["RUN", "--frames", "3"], "unrecognized arguments"),
        (["RUN", "train.batch_size=3"], "train.batch_size is as it was in training"),
        (["RUN", "sequence.window=one"], "sequence.window"),
        (["RUN", "env.kwargs.wings=2"], "wings"),
        (["RUN", "env.kwargs.length=3,4"], "one value each; a list is written env.kwargs.length=[…]"),
        (["RUN", "~env.kwargs.length"], "settings cannot be removed"),
        ([], "required"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"RUN": str(run), "BESIDE": f"{run}_9", "ABOVE": str(run.parent)}
    with pytest.raises(SystemExit) as leaving:
        evaluate(monkeypatch, *[folders.get(a, a) for a in arguments])
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert message.replace("RUN", folders["RUN"]) in error


def test_damaged_checkpoint_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / NAME).write_bytes((run / NAME).read_bytes()[:1000])
    with pytest.raises(SystemExit) as leaving:
        evaluate(monkeypatch, str(tmp_path))
    assert leaving.value.code == 2
    assert "damaged" in capsys.readouterr().err


OWN = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("Mine-v0", entry_point=CartPoleEnv, max_episode_steps=20)
"""


def test_the_folder_of_training_is_named_and_never_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, elsewhere, directory = tmp_path / "here", tmp_path / "elsewhere", tmp_path / "run"
    here.mkdir()
    elsewhere.mkdir()
    (here / "my_own_package.py").write_text(OWN)
    with monkeypatch.context() as started:
        started.chdir(here)
        started.setattr(sys, "path", list(sys.path))
        assert run_session(load_config([*SMALL, "env=gym", "env.id=my_own_package:Mine-v0"]), directory) == 0
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_own_package")
    monkeypatch.delitem(gymnasium.registry, "Mine-v0")
    lacks = "env.id=my_own_package:Mine-v0 cannot be imported: No module named 'my_own_package'"
    said = refusal(monkeypatch, capsys, str(directory), "--no-video")
    assert lacks in said and said.endswith(f"; the run was trained in {here}: run the command from there\n")
    for attempt in (lambda: load(directory), lambda: prepare([f"resume={directory}", "steps=70"])):
        with pytest.raises(EnvError, match=f"trained in {here}: run the command from there"):
            attempt()
    planted = directory / "planted"
    planted.mkdir()
    (planted / "my_own_package.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{OWN}")
    (directory / "folder.txt").write_text(f"{planted}\n")  # as a foreign run may say
    said = refusal(monkeypatch, capsys, str(directory), "--no-video")
    assert lacks in said and str(planted) not in said
    assert not (tmp_path / "ran").exists()
    assert not {str(here), str(planted)} & set(sys.path)
    monkeypatch.chdir(here)
    evaluate(monkeypatch, str(directory), "--episodes", "2", "--no-video")
    assert "of my_own_package:Mine-v0" in capsys.readouterr().out


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that evaluate.py ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


SCRIPT = "; registered in a script? import it first, or name it as an entry point (docs/add/index.md)\n"


def test_what_a_script_registered_is_said_to_be_missing(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An environment or a part: without a hint at another one, which the run did not mean."""
    gymnasium.register("CartPol-v0", entry_point=CartPoleEnv, max_episode_steps=20)
    directory = tmp_path / "run"
    assert run_session(load_config([*SMALL, "env=gym", "env.id=CartPol-v0"]), directory) == 0
    del gymnasium.registry["CartPol-v0"]
    said = refusal(monkeypatch, capsys, str(directory))
    assert said == f"error: env.id=CartPol-v0 is not a registered environment{SCRIPT}"
    text = (run / "config.yaml").read_text()
    for old, new, key in (
        ("(?<=replay:\n  name: ).*", "unifor", "replay.name=unifor"),
        ("- jsonl", "- json", "logging.writers[0]=json"),
    ):
        changed, times = re.subn(old, new, text)
        assert times == 1
        (directory / "config.yaml").write_text(changed)
        said = refusal(monkeypatch, capsys, str(directory))
        assert f"cannot be read: {key} is not one of " in said
        assert said.endswith(SCRIPT) and "did you mean" not in said


class Dark(CartPoleEnv):
    """Renders nothing, and says so."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's convention

    def render(self) -> None:
        return None


def test_what_renders_nothing_is_said_in_three_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium.register("Dark-v0", entry_point=Dark, max_episode_steps=20)
    try:
        settings = [
            *SMALL,
            "env=gym",
            "env.id=Dark-v0",
            "logging.video_every=60",
            "logging.pictures_every=60",
        ]
        assert run_session(load_config(settings), tmp_path) == 0
        capsys.readouterr()
        monkeypatch.setattr(gymnasium.logger, "min_level", gymnasium.logger.WARN)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(monkeypatch, str(tmp_path), "--episodes", "2")
        out, error = capsys.readouterr()
        assert out.endswith("\nno video: it renders nothing\n")
        assert error == ""
    finally:
        del gymnasium.registry["Dark-v0"]


def test_changes_are_not_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate(monkeypatch)
    assert "arguments are required: run;" in capsys.readouterr().err
