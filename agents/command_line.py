"""The command line: Hydra composes, this module refuses what cannot be right, in one line.

Hydra alone accepts `+unknown=1`, merges `agent=[a,b]` silently and answers typing errors with
tracebacks. So every command line is composed once beforehand, every member of a sweep included,
and checked by `agents.strict`; only then does Hydra run it.
"""

import difflib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.checkpoint import CheckpointError
from agents.config import Config
from agents.run_directory import FREE, is_free, read_config, run_directory
from agents.session import check_device, run_session
from agents.strict import ConfigError, build
from envs.factory import EnvError, make_env

CONFIGS = Path(__file__).parent.parent / "configs"
OPEN_SECTIONS = ("env.kwargs.",)  # keys that only the environment knows
MAX_SWEEP = 1000  # members of a sweep that are checked beforehand
_PASS_ON = (
    "-h",
    "--help",
    "--hydra-help",
    "--version",
    "-c",
    "--cfg",
    "-i",
    "--info",
    "-sc",
    "--shell-completion",
)
_FLAGS = ("-m", "--multirun", "--resolve", *_PASS_ON)


def main() -> None:
    """Entry point of train.py."""
    arguments = sys.argv[1:]
    try:
        if not any(a.split("=")[0] in _PASS_ON for a in arguments):
            sys.argv[1:] = prepare(arguments)
    except (ConfigError, EnvError) as error:
        fail(error)
    _job()


def fail(error: BaseException | str, code: int = 2) -> NoReturn:
    """One line on standard error, and out."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def prepare(arguments: list[str]) -> list[str]:
    """Check a command line; the same one, with what Hydra needs spelled out.

    Raises ConfigError or EnvError for anything that could not run.
    """
    flags = [a for a in arguments if a.startswith("-")]
    for flag in flags:
        if flag not in _FLAGS:
            raise ConfigError(f"unknown option {flag}; settings are written key=value, see --help")
    texts = [_spell_out(a) for a in arguments if not a.startswith("-")]
    overrides = [_parse(text) for text in texts]
    sweep = "-m" in flags or "--multirun" in flags
    known = _known_keys()
    for override in overrides:
        _check_key(override, known, sweep)
    checked: set[str] = set()
    for combination in itertools.islice(_combinations(overrides), MAX_SWEEP):
        config = load_config(combination)
        if config.env.id not in checked:
            make_env(config.env).close()
            checked.add(config.env.id)
        check_device(config.device)
        _resolve_resume(config, combination)
    return flags + texts


def load_config(overrides: list[str]) -> Config:
    """Compose and check one run's config. Raises ConfigError."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose("config", overrides=overrides)
        return _typed(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).split("\n")[0]) from error


def _typed(composed: DictConfig) -> Config:
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]} must be given, as {missing[0]}=…")
    values: Any = OmegaConf.to_container(composed, resolve=True)
    return build(Config, values)


@hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
def _job(composed: DictConfig) -> None:
    try:
        config = _typed(composed)
        hydra_config = HydraConfig.get()
        overrides = list(hydra_config.overrides.task)
        config, directory = _resolve_resume(config, overrides)
        if directory is None:
            own_id = any(o.lstrip("+").startswith("env.id=") for o in overrides)
            name = config.env.id if own_id else hydra_config.runtime.choices["env"]
            directory = run_directory(config, name, overrides)
        code = run_session(config, directory)
    except (ConfigError, EnvError, CheckpointError) as error:
        fail(error)
    except FloatingPointError as error:
        fail(f"training diverged: {error}; the last checkpoint is kept, try a lower optimizer.lr", 1)
    except OSError as error:
        fail(f"{error}; what was saved before is kept", 1)
    if code:
        sys.exit(code)


def _resolve_resume(config: Config, overrides: list[str]) -> tuple[Config, Path | None]:
    """With resume=<dir>: that run's own config, except for what may change between sessions."""
    if config.resume is None:
        return config, None
    changed = {o.lstrip("+").split("=", 1)[0] for o in overrides} - {"resume"}
    for key in sorted(changed):
        if not is_free(key):
            raise ConfigError(
                f"resume={config.resume} takes {key} from the run; only {', '.join(FREE[2:])} may be given with it"
            )
    before = read_config(Path(config.resume))
    sections = {key.split(".")[0] for key in changed}
    return replace(before, **{name: getattr(config, name) for name in sections}), Path(config.resume)


def _spell_out(text: str) -> str:
    """`env.kwargs.x=1` adds a key that no config can know: Hydra wants `++` for it."""
    return f"++{text}" if text.startswith(OPEN_SECTIONS) else text


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except OverrideParseException as error:
        raise ConfigError(f"cannot read {text!r}: settings are written key=value") from error


def _known_keys() -> dict[str, list[str] | None]:
    """Every dotted key; groups map to their choices, plain keys to None."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("config")
    keys: dict[str, list[str] | None] = dict.fromkeys(_flatten(OmegaConf.to_container(composed), ""))
    for folder in sorted(p for p in CONFIGS.iterdir() if p.is_dir()):
        keys[folder.name] = sorted(p.stem for p in folder.glob("*.yaml"))
    return keys


def _flatten(values: Any, path: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")


def _check_key(override: Override, known: dict[str, list[str] | None], sweep: bool) -> None:
    key = override.key_or_group
    if key.startswith(("hydra.", "hydra/")) or key.startswith(OPEN_SECTIONS):
        return
    if override.is_delete():
        raise ConfigError(f"~{key}: settings cannot be removed, only set")
    if key not in known:
        near = (
            difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            or [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
        )
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"unknown key {key}{hint}; --help lists the groups, --cfg job all keys")
    if override.is_sweep_override() and not sweep:
        raise ConfigError(f"{override.input_line}: several values need a sweep: add -m")
    choices = known[key]
    if choices is None:
        return
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    for value in values:
        if isinstance(value, list | dict):
            raise ConfigError(
                f"{override.input_line}: {key} takes one choice; for a sweep write {key}=a,b with -m"
            )
        if str(value) not in choices:
            near = difflib.get_close_matches(
                str(value).lower(), [c.lower() for c in choices], n=1, cutoff=0.4
            )
            hint = next((f" (did you mean {c}?)" for c in choices if near and c.lower() == near[0]), "")
            extra = "; any Gymnasium id: env=gym env.id=…" if key == "env" else ""
            raise ConfigError(f"{key}={value} is not one of {', '.join(choices)}{hint}{extra}")


def _combinations(overrides: list[Override]) -> Iterator[list[str]]:
    """Every member of the sweep as a list of plain overrides."""
    options = []
    for override in overrides:
        prefix, key = _prefix(override), override.key_or_group
        if override.is_sweep_override():
            options.append([f"{prefix}{key}={value}" for value in override.sweep_string_iterator()])
        else:
            options.append([str(override.input_line)])
    for combination in itertools.product(*options):
        yield list(combination)


def _prefix(override: Override) -> str:
    return "++" if override.is_force_add() else "+" if override.is_add() else ""
