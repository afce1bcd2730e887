"""Where a run lives, and whether what lies there is the same run."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.provenance import provenance
from qdreamer.configs.console import one_line
from qdreamer.configs.schema import HINT, ConfigError, UnknownWordError, build, dotted, show
from qdreamer.configs.sealed_file import read_json
from qdreamer.envs.edge.guard import EnvError, UnknownEnvError
from qdreamer.worldmodel.config import PREDICTED

CONFIG_NAME = "config.yaml"
SUMMARY_NAME = "summary.json"
FOLDER_NAME = "folder.txt"
IN_A_SCRIPT = "registered in a script? import it first, or name it as an entry point (docs/add/index.md)"
# Settings that do not change what is learned: not in the directory's name, not in the hash.
FREE = ("runs", "resume", "steps", "device", "threads", "logging", "checkpoint", "replay.mapped")
_FREE_ENV = ("steps", "solved")  # of the env section, likewise
# Settings that came later, with what earlier runs did without them.
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("optimizer", "groups", {}),
    ("optimizer", "steer", 0.0),
    ("optimizer", "steer_bound", 30.0),
    ("world_model", "checkpointing", False),
    ("world_model", "gradients", dict.fromkeys(PREDICTED, 1.0)),
    ("heads", "gradient", 1.0),
    ("replay", "initial", None),
    ("replay", "diverse", "none"),
    ("replay", "candidates", 3),
    ("replay", "qubo", {"solver": "xy", "layers": 3, "keep": 4, "similarity": 1.0, "floor": 0.1}),
    ("train", "collect", True),
    ("train", "pink_noise", False),
)
_ELSEWHERE = ("env", "env.id", "agent", "seed")  # named by a directory of their own
_MAX_NAME = 200  # bytes; file systems end at 255


def is_free(key: str) -> bool:
    """Tell whether the (dotted) key may differ between sessions of one run."""
    return key in FREE or key.split(".")[0] in FREE


def run_directory(config: Config, env_name: str, overrides: list[str]) -> Path:
    """Return runs/<env>/<agent>[+sorted overrides]/seed_<k>."""
    named = sorted({o.lstrip("+") for o in overrides if _names_run(o)})
    agent = "+".join([config.agent.name, *named])
    return Path(config.runs) / _safe(env_name) / _safe(agent) / f"seed_{config.seed}"


def _names_run(override: str) -> bool:
    key = override.lstrip("+~").split("=", 1)[0]
    elsewhere = (*_ELSEWHERE, *(f"env.{name}" for name in _FREE_ENV))
    return not is_free(key) and key not in elsewhere and not key.startswith("hydra")


def _safe(text: str) -> str:
    """Return a folder's name that needs no quotes, in a shell or behind resume=.

    Brackets and quotes go, other odd signs become '_'. A long text ends in a hash of the whole.
    """
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", re.sub(r"[\[\]{}()'\"]", "", text)).strip("_.") or "_"
    if len(name) > _MAX_NAME:
        name = f"{name[: _MAX_NAME - 9]}+{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def fingerprint(config: Config) -> str:
    """Hash all settings that change what is learned."""
    return hashlib.sha256(json.dumps(_learning(config), sort_keys=True).encode()).hexdigest()[:16]


def origin(config: Config) -> dict[str, str]:
    """Return what a checkpoint is made by: hashes of the settings that matter and of the code."""
    return {"settings": fingerprint(config), "code": provenance()["versions"]["code"]}


def _learning(config: Config) -> dict[str, Any]:
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in FREE}
    for field in dataclasses.fields(config):  # sections that came later mean, at their defaults, none
        if field.default is not dataclasses.MISSING and getattr(config, field.name) == field.default:
            values.pop(field.name, None)
    for section, name, default in _LATER:
        if values.get(section, {}).get(name, default) == default:
            values.get(section, {}).pop(name, None)
    values["env"] = {key: value for key, value in values["env"].items() if key not in _FREE_ENV}
    # What hashes had when it was no matter of course.
    values["replay"] = {**values["replay"], "mapped": False}
    return values


def write_config(directory: Path, config: Config) -> None:
    """Keep the resolved config with the run."""
    directory.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)
    replace_file(directory / CONFIG_NAME, f"# fingerprint: {fingerprint(config)}\n{text}")
    if _names_modules(config) and _folder(directory) is None:
        replace_file(directory / FOLDER_NAME, f"{Path.cwd()}\n")


def _names_modules(config: Config) -> bool:
    return ":" in config.env.id or bool(config.env.wrappers)


def _folder(directory: Path) -> Path | None:
    """Return the folder that a run says it was started from, if it is there: for messages alone."""
    try:
        folder = Path((directory / FOLDER_NAME).read_text(encoding="utf-8").strip())
        inside = folder.resolve().is_relative_to(directory.resolve())  # what came along with a foreign run
        return folder if folder.is_absolute() and folder.is_dir() and not inside else None
    except (OSError, ValueError):  # no text, or no path
        return None


@contextmanager
def found_again(directory: Path, config: Config) -> Iterator[None]:
    """Say, where what the environment of an earlier session names is not found, where it may be.

    That folder is named and never looked in: the run may be a stranger's. Raises EnvError.
    """
    try:
        yield
    except UnknownEnvError as error:
        if not _names_modules(config):
            raise EnvError(f"{error.said}; {IN_A_SCRIPT}") from error
        if (folder := _folder(directory)) is None or folder == Path.cwd():
            raise
        where = f"the run was trained in {folder}: run the command from there"
        raise EnvError(f"{error.said}; {where}") from error


def replace_file(path: Path, text: str) -> None:
    """Write a file. A kill at any instant leaves the old or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _runs_near(directory: Path) -> str:
    """Return some run directories in a folder, or where one that is not there would be, to be told."""
    place = next((path for path in (directory, *directory.absolute().parents) if path.is_dir()), Path("/"))
    if place == Path(place.anchor):  # of all files there are
        return ""
    found: list[Path] = []
    with suppress(OSError):  # folders may vanish
        for below in ("*", "*/*", "*/*/*"):
            found += [path.parent for path in sorted(place.glob(f"{below}/{CONFIG_NAME}"))]
    return f"; there are {', '.join(map(str, found[:3]))}{', …' if found[3:] else ''}" if found else ""


def read_config(directory: Path) -> Config:
    """Read the config of an earlier session. Raises ConfigError."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        said = f"it has no {CONFIG_NAME}" if directory.exists() else "it does not exist"
        raise ConfigError(f"{directory} is not a run directory: {said}{_runs_near(directory)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ConfigError("it holds no settings")
        return build(Config, values)
    except UnknownWordError as error:
        said = str(error).partition(HINT)[0]
        raise ConfigError(f"{path} cannot be read: {one_line(said)}; {IN_A_SCRIPT}") from error
    # YAML's reader raises all of these: of impossible dates, numbers too long, lists in lists in lists.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error


def read_summary(directory: Path) -> dict[str, Any]:
    """Read the run's summary; empty if there is none that can be believed."""
    try:
        values = read_json(directory / SUMMARY_NAME)
    except (OSError, ValueError):
        return {}
    sessions = values.get("sessions", [])
    formed = isinstance(values.get("step", 0), int) and isinstance(sessions, list)
    if not formed or not all(isinstance(s, dict) and isinstance(s.get("step"), int) for s in sessions):
        return {}
    return values


def check_same_run(directory: Path, config: Config) -> None:
    """Raises ConfigError when the directory holds a run with other settings."""
    if not (directory / CONFIG_NAME).exists():
        return
    before = read_config(directory)
    if fingerprint(before) != fingerprint(config):
        old, new = dotted(_learning(before)), dotted(_learning(config))
        swapped = tuple(  # parts of another kind, whose own settings need not be named as well
            key.removesuffix("name") for key in old if key.endswith(".name") and old[key] != new.get(key)
        )
        changed = ", ".join(
            f"{key} {show(old.get(key))} → {show(new.get(key))}"
            for key in {**old, **new}
            if old.get(key) != new.get(key) and not isinstance(new.get(key, old.get(key)), dict)
            if (key in old and key in new) or not key.startswith(swapped)
        )
        raise ConfigError(
            f"{directory} holds a run with other settings ({changed}): "
            f"remove it, keep both with runs=<another folder>, or go on with it: resume={directory}"
        )
