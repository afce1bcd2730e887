"""Files of runs that are changed at random: each is taken, or refused in one line."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st

from benchmarks.comparison import AGENTS, write_runs
from qdreamer.agents.cli import command_line
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.run_directory import check_same_run, read_config, write_config
from qdreamer.analysis.comparison import Settings, compare
from qdreamer.analysis.report.report import document
from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import find_runs, read_finished
from qdreamer.configs.schema import ConfigError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 2**31, 2**63, 1e-320])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["gru", "CartPole-v1", "cuda", "step", "../x", "nan", "1e5", "${seed}"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
NASTY = [
    "2020-13-45", "&a [*a]", "!!python/object/apply:os.system [x]", "\0", "\t", "é", "\x85", "\u2028",
    "1e999", "9" * 5000, "0x", "-", ": ", "? [a]", "{", "[" * 3000, "'", '"', "#", "\n", "\r", "\n---\n",
    "*a", "<<: 1", "NaN", "-Infinity", "1:99:99", "=", "\udc80",
]  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, tree: Any) -> Any:
    """Draw a copy of nested values with entries removed, renamed, added, replaced or wrapped."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(0, 3))):
        holders = [found for found in _holders(tree) if found]
        if not holders:
            break
        holder = draw(st.sampled_from(range(len(holders))).map(holders.__getitem__))
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key, value = draw(st.sampled_from(keys)), draw(VALUES)
        match draw(st.sampled_from(["remove", "replace", "wrap", "rename", "add"])):
            case "remove":
                del holder[key]
            case "replace":
                holder[key] = value
            case "wrap":
                holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
            case "rename" | "add" if isinstance(holder, list):
                holder.append(value)
            case "rename":
                holder[draw(st.text(max_size=5))] = holder.pop(key)
            case "add":
                holder[draw(st.text(max_size=5))] = value
    return tree


def _holders(tree: Any) -> list[Any]:
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return ([tree] if isinstance(tree, dict | list) else []) + [h for value in inner for h in _holders(value)]


@st.composite
def torn(draw: st.DrawFn, text: str) -> bytes:
    """Draw a text, as it is or with something else in the place of some of it."""
    if draw(st.booleans()):
        begin = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 20))
        text = text[:begin] + draw(st.sampled_from(NASTY) | st.text(max_size=5)) + text[begin + length :]
    return text.encode("utf-8", "surrogatepass")


def _each(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], count: int) -> None:
    """Let what `check` raises for any of so many draws come through, for the smallest of them."""
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.normal,
    )
    quiet(given(strategy)(check))()


def configs(directory: Path, count: int) -> None:
    """Change a run's config.yaml. Raises what its readers raise but for one line of theirs."""
    write_config(directory, load_config([]))
    path = directory / "config.yaml"
    header, _, text = path.read_text().partition("\n")
    values = yaml.safe_load(text)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        _refused(lambda: read_config(directory), ConfigError)
        _refused(lambda: check_same_run(directory, load_config([])), ConfigError)
        _refused(lambda: command_line.prepare([f"resume={directory}"]), command_line.REFUSALS)

    texts = changed(values).map(lambda tree: f"{header}\n{yaml.safe_dump(tree, allow_unicode=True)}")
    _each(texts.flatmap(torn), check, count)


def logs(folder: Path, count: int) -> None:
    """Change the files that comparisons read. Raises what they raise but for one line of theirs."""
    agents = ("classical", "hybrid", "hybrid+attention=softmax")
    write_runs(folder, 1, agents={name: AGENTS[name] for name in agents})
    directory = folder / "classical" / "seed_0"
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "eval/return" in line] + lines[:2]
    lines.sort(key=lambda line: line["step"])
    sound = {
        "metrics.jsonl": lines,
        "config.yaml": yaml.safe_load((directory / "config.yaml").read_text()),
        "summary.json": json.loads((directory / "summary.json").read_text()),
    }
    sound["summary.json"].pop("sha256", None)

    def text(name: str, tree: Any) -> str:
        if name == "config.yaml":
            return yaml.safe_dump(tree, sort_keys=False)
        return (
            "".join(json.dumps(line) + "\n" for line in tree) if name == "metrics.jsonl" else json.dumps(tree)
        )

    def report() -> None:
        compared = compare(folder, read_finished(find_runs(folder))[0], Settings())
        document(compared, dict.fromkeys(("curves", "profiles", "comparisons"), Path("picture.png")), "")

    def check(drawn: tuple[str, bytes]) -> None:
        for name, tree in sound.items():
            (directory / name).write_text(text(name, tree))
        (directory / drawn[0]).write_bytes(drawn[1])
        _refused(report, (CompareError, OSError))

    def files(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        texts = changed(sound[name]).map(lambda tree: text(name, tree))
        return st.tuples(st.just(name), texts.flatmap(torn))

    _each(st.sampled_from(["metrics.jsonl", *sound]).flatmap(files), check, count)


def _refused(call: Callable[[], object], kinds: Any) -> None:
    """Let a call go well, or raise what commands answer with one line."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(kinds):
        call()
