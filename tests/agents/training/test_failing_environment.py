"""A run whose environment fails: one line, a checkpoint first, and the unbroken run once it is mended."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from qdreamer.agents.cli.command_line import main
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.run_directory import read_summary
from qdreamer.agents.sweeps.sweep import OUTPUT, last_output_line
from qdreamer.agents.training.session import run_session
from qdreamer.envs.edge import guard
from qdreamer.envs.edge.guard import EnvFailure
from qdreamer.envs.interface import NamedEntries
from qdreamer.envs.seeds import training_seed
from tests.agents.training.test_training import SMALL, metrics
from tests.envs.misbehaving import LATE, Odd, Port, register

LESS = ("steps=", "train.prefill=", "train.replay_ratio=", "train.batch_length=", "evaluation.every=")
TINY = [
    *(setting for setting in SMALL if not setting.startswith(LESS)),
    *("env=gym", "env.id=Odd-v0", "agent=classical", "steps=90", "train.prefill=20", "train.replay_ratio=16"),
    *("evaluation.every=45", "train.batch_length=8", "agent.imagination_starts=2"),
]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(gymnasium.registry)
    register()
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def unbroken(directory: Path, fault: list[str], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(Odd, "sick", False)
    assert run_session(load_config([*TINY, *fault]), directory) == 0
    monkeypatch.setattr(Odd, "sick", True)
    return metrics(directory)


@pytest.mark.parametrize(
    ("shown", "when", "at"),
    [
        ("nan", "late", LATE - 1),
        ("raise", "late reset", 29),
    ],
)
def test_mended_it_ends_like_the_unbroken_run(
    shown: str, when: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = [f"env.kwargs.fault=shows_{shown}", f"env.kwargs.when={when!r}"]
    expected = unbroken(tmp_path / "whole", fault, monkeypatch)
    with pytest.raises(EnvFailure, match=f"saved at step {at}, where the same command goes on"):
        run_session(load_config([*TINY, *fault]), tmp_path / "run")
    assert read_summary(tmp_path / "run")["step"] == at
    monkeypatch.setattr(Odd, "sick", False)
    assert run_session(load_config([*TINY, *fault]), tmp_path / "run") == 0
    assert metrics(tmp_path / "run") == expected


def test_a_resumed_run_names_the_right_seed_and_step(tmp_path: Path) -> None:
    fault = ["env.kwargs.fault=shows_raise", "env.kwargs.when=late"]
    for at in (LATE - 1, 2 * LATE - 6):  # the second time in the episode that was resumed in its middle
        with pytest.raises(EnvFailure, match=f"saved at step {at}") as failed:
            run_session(load_config([*TINY, *fault]), tmp_path)
        found = re.search(r"in step 5 of episode (\d+) \(seed (\d+)\)", str(failed.value))
        assert found is not None, failed.value
        assert int(found[2]) == training_seed(0, 0, int(found[1]) - 1)


def test_what_fails_while_a_run_comes_back_is_no_fault_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = ["env.kwargs.fault=shows_raise", "env.kwargs.when=late"]
    with pytest.raises(EnvFailure):
        run_session(load_config([*TINY, *fault]), tmp_path)

    def refuse(self: Any, seeds: Any, actions: Any) -> Any:
        raise ValueError("no licence")

    monkeypatch.setattr(NamedEntries, "restore_by_replay", refuse)
    with pytest.raises(EnvFailure, match="did not come back to its running episode: ValueError: no licence"):
        run_session(load_config([*TINY, *fault]), tmp_path)


def test_the_command_ends_in_one_line_that_a_sweep_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = ["env.kwargs.fault=shows_exit", "env.kwargs.when=late"]
    with pytest.raises(SystemExit) as left:
        main([*TINY, *fault, f"runs={tmp_path}"])
    assert left.value.code == 1
    said = capsys.readouterr().err
    (line,) = said.splitlines()
    for words in (
        "error: env.id=Odd-v0 failed in step 5 of episode 3 (seed ",
        " with action ",
        "SystemExit: the simulator says good-bye (",
        'in leave: sys.exit("the simulator says good-bye"))',
        f"saved at step {LATE - 1}",
    ):
        assert words in line
    (tmp_path / OUTPUT).write_text(f"what came before\n{said}")
    assert last_output_line(tmp_path) == line


def trained(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What training logs, without evaluations: played alone, their latents are other draws."""
    return [line for line in lines if not {"eval/return", "overfitting/held_out"} & line.keys()]


def test_a_simulator_of_which_there_is_one_is_evaluated_in_trainings_own_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "_said", set())
    words = [word.replace("Odd-v0", "Port-v0") for word in TINY]
    main([*words, f"runs={tmp_path / 'one'}"])
    assert Port.held == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "OSError: address already in use" in line
    assert "beside training's 1, evaluation wanted 3 copies more; it plays in training's own instead" in line
    monkeypatch.setattr(Port, "most", 99)
    main([*words, f"runs={tmp_path / 'many'}"])
    one, many = (metrics(next(tmp_path.glob(f"{name}/*/*/seed_0"))) for name in ("one", "many"))
    assert trained(one) == trained(many)
    assert [line["eval/return"] for line in one if "eval/return" in line] == [10.0, 10.0]


def test_seeds_that_an_environment_sets_do_not_reach_the_run(tmp_path: Path) -> None:
    for name in ("Odd-v0", "Seeder-v0"):
        words = [word.replace("Odd-v0", name) for word in TINY]
        assert run_session(load_config(words), tmp_path / name) == 0
    assert metrics(tmp_path / "Odd-v0") == metrics(tmp_path / "Seeder-v0")
