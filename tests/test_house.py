"""The house: rooms and files import one way, files stay short, and parts are known by their words alone."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Lowest first: a room imports from those above it in this list only. docs/architecture.md describes them.
ROOMS = [
    "configs",
    "native",
    "envs.tasks",
    "envs.suites",
    "envs.edge",
    "envs",
    "quantum",
    "quantum.circuits",
    "quantum.noise",
    "quantum.qaoa",
    "quantum.backends",
    "quantum.jobs",
    "analysis",
    "analysis.report",
    "worldmodel.weights",
    "worldmodel.networks",
    "worldmodel.quantum_heads",
    "worldmodel.attention",
    "worldmodel.sequence_models",
    "worldmodel",
    "agents.distributed",
    "agents.replay.disk",
    "agents.replay.diversity",
    "agents.replay",
    "agents",
    "agents.optim",
    "agents.interaction",
    "agents.reporting.writers",
    "agents.reporting",
    "agents.runs",
    "agents.training",
    "agents.sweeps",
    "agents.cli",
    "qdreamer",
]
TOPS = sorted({room.split(".")[0] for room in ROOMS})
# Rooms that know none of the others but configs, although the list puts them in some order.
STRANGERS = ["native", "envs", "quantum", "analysis"]
# Where the parts are that a user chooses by a word: nobody outside asks which one it is.
PARTS = [
    "quantum.qaoa.qaoa",
    "quantum.qaoa.controls",
    "quantum.qaoa.penalty",
    "quantum.qaoa.subset_controls",
    "quantum.qaoa.xy",
    "quantum.backends",
    "worldmodel.weights",
    "worldmodel.quantum_heads",
    "worldmodel.attention",
    "worldmodel.sequence_models",
    "agents.replay",
    "agents.optim",
]
MOST_MODULES = 16  # in a folder
MOST_LINES = 400  # in a file


def modules() -> dict[str, Path]:
    """Name without `qdreamer.` → file, of all product code."""
    found = {}
    for path in (path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(module: str) -> str:
    """The room that a module lies in."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def ours(name: str) -> str:
    """The dotted name below qdreamer: 'agents.dreamer.Dreamer', or 'qdreamer.cli' in the face itself."""
    inside = name.removeprefix("qdreamer").lstrip(".")
    return inside if inside.split(".")[0] in TOPS else f"qdreamer.{inside}".rstrip(".")


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Everything of ours that a file imports, in functions too: (local name, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name what they import in full"
            if (node.module or "").split(".")[0] == "qdreamer":
                for name in node.names:
                    yield name.asname or name.name, ours(f"{node.module}.{name.name}")
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "qdreamer":
                    yield name.asname or name.name, ours(name.name)


def module_of(dotted: str) -> str:
    """The module that `dotted` is, or is defined in."""
    return dotted if dotted in MODULES else dotted.rpartition(".")[0]


IMPORTS = {name: {module_of(d) for _, d in imported(tree)} - {name} for name, tree in TREES.items()}


def test_every_folder_of_code_is_a_room_of_the_list() -> None:
    assert {room(module) for module in MODULES} == set(ROOMS)


def test_rooms_import_downwards_only() -> None:
    upward = [
        f"{module} → {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others)
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not upward, "\n".join(upward)


def test_some_rooms_know_none_but_the_configs() -> None:
    known = [
        f"{module} → {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others)
        if (top := module.split(".")[0]) in STRANGERS and other.split(".")[0] not in (top, "configs")
    ]
    assert not known, "\n".join(known)


def test_files_import_each_other_in_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(IMPORTS[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_no_folder_and_no_file_outgrows_its_reader() -> None:
    counts = Counter(room(module) for module, path in MODULES.items() if path.name != "__init__.py")
    assert {name: n for name, n in counts.items() if n > MOST_MODULES} == {}
    kinds = (".py", ".c", ".h")
    files = [path for top in TOPS for path in (ROOT / top).rglob("*") if path.suffix in kinds]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_only_native_knows_whether_c_is_there() -> None:
    asks = re.compile(r"\bkernels\.(fit|on)\b|\bcovers\(|\bsupports\(|\bnative\.on\(")
    asking = [
        f"{module}: {match[0]}"
        for module, path in MODULES.items()
        if not module.startswith("native")
        for match in asks.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not asking, "\n".join(asking)


def classes_asked_for(tree: ast.AST) -> Iterator[str]:
    """Names of classes in `isinstance`, `issubclass` and `case` patterns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            yield from (ast.unparse(leaf) for leaf in ast.walk(node.args[1]) if isinstance(leaf, ast.Name))
        elif isinstance(node, ast.MatchClass):
            yield ast.unparse(node.cls)


def test_nobody_asks_which_part_was_chosen() -> None:
    asking = []
    for module, tree in TREES.items():
        names = dict(imported(tree))
        for name in classes_asked_for(tree):
            full = names.get(name, "")
            if full.startswith(tuple(f"{part}." for part in PARTS)) and room(module_of(full)) != room(module):
                asking.append(f"{module}: isinstance(…, {full})")
    assert not asking, "\n".join(asking)
