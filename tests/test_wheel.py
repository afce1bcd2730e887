"""What is installed: one package `qdreamer` that trains from any folder, whatever else lies there."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SMALL = [
    "world_model.units=8", "world_model.hidden=8", "world_model.stoch=2",
    "train.batch_size=2", "train.batch_length=8", "train.replay_ratio=4", "train.prefill=40",
    "evaluation.episodes=2", "logging.video_every=0",
]  # fmt: skip


def rooms() -> dict[str, Path]:
    """Import name → folder of every package, as pyproject.toml maps them."""
    mapped = SETTINGS["tool"]["setuptools"]["package-dir"]
    found = {"qdreamer": ROOT / "qdreamer"}
    found |= {name: ROOT / folder for name, folder in mapped.items()}
    for top, folder in list(found.items()):
        for path in sorted(folder.rglob("__init__.py")):
            found[".".join((top, *path.parent.relative_to(folder).parts))] = path.parent
    return found


def test_every_folder_of_code_is_a_package_that_is_installed() -> None:
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(rooms())
    without = {
        path.parent
        for top in SETTINGS["tool"]["setuptools"]["package-dir"].values()
        for path in (ROOT / top).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert without == set(), "folders of code without __init__.py are not installed"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the wheel and nothing else."""
    pytest.importorskip("setuptools", minversion="77")  # a part of the extra `test`
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves files behind, and takes old ones along
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for top in ("qdreamer", *SETTINGS["tool"]["setuptools"]["package-dir"].values()):
        shutil.copytree(ROOT / top, source / top, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_nothing_but_qdreamer_is_installed(site: Path) -> None:
    found = {path.name for path in site.iterdir()}
    version = SETTINGS["project"]["version"]
    assert found == {"qdreamer", f"qdreamer-{version}.dist-info", "bin"}
    assert {path.name for path in (site / "bin").iterdir()} == {"qdreamer"}


def test_everything_that_is_no_python_travels_along(site: Path) -> None:
    def data(folder: Path) -> set[str]:
        kinds = (".yaml", ".c", ".h", ".typed")
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in kinds}

    for name, folder in SETTINGS["tool"]["setuptools"]["package-dir"].items():
        assert data(site.joinpath(*name.split("."))) == data(ROOT / folder)
    (licence,) = site.glob("*.dist-info/licenses/LICENSE")
    assert licence.read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.processes
def test_the_wheel_trains_evaluates_and_imports(site: Path, tmp_path: Path) -> None:
    """In an empty folder it is what is imported; all else it does among packages of the same names."""

    def run(*arguments: str, cwd: Path = tmp_path) -> str:
        """What the installed program prints; python -P, as a console script, has no current folder."""
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (empty := tmp_path / "empty").mkdir()
    for name in ("agents", "envs", "worldmodel", "quantum", "analysis", "native", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the user’s own package')\n")
    code = "import qdreamer, qdreamer.agents.cli as cli; print(qdreamer.__version__, cli.__file__)"
    for folder in (empty, tmp_path):
        version, place = run("-c", code, cwd=folder).split()
        assert version == SETTINGS["project"]["version"]
        assert Path(place).is_relative_to(site), "this test must run the wheel, not the checkout"
    console = str(site / "bin" / "qdreamer")
    assert "done: 64 steps" in run(console, "train", "env=pairs", "steps=64", *SMALL, cwd=empty)
    swept = run("-m", "qdreamer", "train", "-m", "env=CartPole", "steps=200", *SMALL)
    assert "1 of 1 runs are complete, 0 failed" in swept
    (directory,) = tmp_path.glob("runs/CartPole/*/seed_0")
    assert "done: 200 steps" in (directory / "console.log").read_text(encoding="utf-8")
    assert "over 3 unseen episodes" in run(console, "evaluate", str(directory), "--episodes=3", "--no-video")
