"""The notebooks in examples/: short, stored without outputs, and their cells run, with quick settings."""

import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))
MOST_LINES = 40  # of code


def code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_short_and_without_outputs(path: Path) -> None:
    lines = "".join("".join(cell["source"]) + "\n" for cell in code(path)).splitlines()
    assert len([line for line in lines if line.strip()]) <= MOST_LINES
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code(path))


@pytest.mark.usefixtures("registries_as_before")
@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder. A cell of parameters says in its metadata what is quick."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": path.stem}
    for cell in code(path):
        source = "".join(cell["source"]) + "\n" + cell["metadata"].get("quick", "")
        exec(compile(source, path.name, "exec"), found)
    matplotlib.pyplot.close("all")
