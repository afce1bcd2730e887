"""What the documents name exists: files, benchmarks, and words of the command line."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

from qdreamer.agents.cli.command_line import prepare
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.factory import EnvError
from qdreamer.quantum.circuits.backend import CredentialsError

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
SNIPPET = re.compile(r"^(<!-- not run: .+ -->\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINES = "\n".join(TEXTS.values()).replace("\\\n", "")
COMMANDS = sorted(
    {
        match[1].split("#")[0].strip()
        for match in re.finditer(r"^(?:python train\.py|qdreamer train) (.+)$", LINES, re.MULTILINE)
    }
)


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_benchmarks_exist(name: str) -> None:
    named = set(re.findall(r"[`(]((?:[\w.-]+/)+[\w-]+\.(?:py|yaml|c|h|md|json|xz))\b", TEXTS[name]))
    named |= {f"benchmarks/{module}.py" for module in re.findall(r"benchmarks\.([a-z_]+)", TEXTS[name])}
    beside = (ROOT / name).parent
    missing = [path for path in sorted(named) if not (ROOT / path).exists() and not (beside / path).exists()]
    assert missing == []


@pytest.mark.usefixtures("registries_as_before")
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEXTS if SNIPPET.search(TEXTS[name])])
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order, in an empty folder, but for those that say why not: <!-- not run: because … -->."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {"__name__": "snippets"}
    for reason, code in SNIPPET.findall(TEXTS[name]):
        if not reason:
            exec(compile(code, name, "exec"), found)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted(command: str) -> None:
    with suppress(CredentialsError):  # well written, and there is no account here
        try:
            prepare(shlex.split(command))
        except (EnvError, ConfigError) as error:  # nor every suite and extra
            assert "pip install" in str(error)
