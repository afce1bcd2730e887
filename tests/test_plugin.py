"""A package outside the tree (tests/plugin) adds parts of every kind by entry point, and they train."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"
SMALL = (
    "env=CartPole agent=classical kernels=false steps=40 train.prefill=16 train.batch_size=2 "
    "train.batch_length=4 train.replay_ratio=4 agent.imagination_starts=2 agent.imagination_horizon=3 "
    "world_model.units=8 world_model.stoch=2 "
    "evaluation.episodes=1 evaluation.max_steps=4 evaluation.horizon=2 evaluation.context=1 logging.every=10"
)
SEARCH = "optimizer=hybrid optimizer.every=2 optimizer.fresh=2 optimizer.slice=2 optimizer.num_qubits=4"
LINES = {  # part → what chooses it
    "sequence": "sequence=mine sequence.leak=0.8",
    "attention": "sequence=transformer attention=mine",
    "replay": "replay=mine",
    "solver": f"{SEARCH} optimizer.solver=mine",
    "backend": f"{SEARCH} quantum=mine optimizer.wait=true",
    "optimizer": "optimizer=mine",
    "weights": "weights=mine weights.period=20",
    "writer": "logging.writers=[jsonl,mine]",
}
WRONG = {
    "attention=mien": "did you mean mine?",
    "optimizer=mine optimizer.momentum=1": "optimizer.momentum=1 must be less than 1",
    "optimizer=mine optimizer.momentun=0.5": "did you mean optimizer.momentum?",
    "quantum=mine quantum.device=FakeFez": "quantum=mine takes no quantum.device",
    "optimizer=hybrid optimizer.solver=mien": "did you mean mine?",
    "logging.writers=[jsonl,mien]": "did you mean mine?",
    "attention=broken": "attention=broken (my_parts:Nothing) cannot be imported",
}
PROGRAM = """
import json, sys
from qdreamer.agents.cli.command_line import main

assert "my_parts" not in sys.modules
for line in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *line.split()]
    code, used = 0, getattr(sys.modules.get("my_parts"), "USED", {})
    before = dict(used)
    try:
        main()
    except SystemExit as end:
        code = end.code
    used = getattr(sys.modules.get("my_parts"), "USED", {})
    print(json.dumps([code, [part for part in used if used[part] > before.get(part, 0)]]))
"""  # runs command lines one after the other; prints how each ended, and which parts were called in it


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which the package is installed, as far as imports can tell."""
    place = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = place / f"my_parts-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    return {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{PLUGIN}"}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def trained(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, tuple[int, list[str]]]]:
    """The folder of the runs, and of each its exit code and the parts that it called."""
    folder = tmp_path_factory.mktemp("runs")
    lines = [f"{SMALL} {words} runs={part}" for part, words in LINES.items()]
    done = run(environment, folder, "-c", PROGRAM, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return folder, dict(zip(LINES, ends, strict=True))


@pytest.mark.parametrize("part", LINES)
def test_a_part_from_outside_trains_by_its_word(
    part: str, trained: tuple[Path, dict[str, tuple[int, list[str]]]]
) -> None:
    folder, ends = trained
    assert ends[part] == [0, [part]]
    (directory,) = (folder / part / "CartPole").glob("classical+*/seed_0")
    logged = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("updates", 0) for line in logged) >= 3
    if part == "writer":
        assert "eval/return" in (directory / "names.txt").read_text().split("\n")
    if part == "backend":
        jobs = [line["optimizer/jobs_finished"] for line in logged if "optimizer/jobs_finished" in line]
        assert jobs[-1] >= 1


def test_the_command_line_knows_the_words_and_their_defaults(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(environment, tmp_path, "-c", PROGRAM, json.dumps(["--help", "--cfg job optimizer=mine"]))
    for group in ("attention", "optimizer", "quantum", "replay", "sequence", "weights"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        assert "mine" in line.removeprefix(f"{group}: ").split(", ")
    assert "optimizer:\n  name: mine\n  lr: ${world_model.lr}\n  momentum: 0.9\n" in done.stdout


def test_what_is_wrong_is_said_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, tmp_path, "-c", PROGRAM, json.dumps(list(WRONG)))
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[2, []]] * len(WRONG)
    lines = done.stderr.splitlines()
    assert len(lines) == len(WRONG)
    for line, words in zip(lines, WRONG.values(), strict=True):
        assert line.startswith("error: ") and words in line
    assert not list(tmp_path.iterdir())
