"""The documentation's site builds without a warning, and the pages that are generated are up to date."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import sizes

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.processes
def test_it_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert "is_first" in reference
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'src="flow.png"' in start and (tmp_path / "flow.png").exists()
    assert "mermaid" not in start, "the theme would load its program from elsewhere"


def test_the_sizes_are_those_of_the_agents() -> None:
    assert (ROOT / "docs" / "sizes.md").read_text(encoding="utf-8") == sizes.page()


def test_every_page_is_in_the_navigation() -> None:
    """The strict build does not say so."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if not page.startswith("data/")}
    assert sorted(pages) == sorted(re.findall(r"[\w/-]+\.md$", navigation, re.MULTILINE))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
