"""Where a run lives, and whether what lies there is the same run."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from agents.config import Config
from agents.strict import ConfigError, build

CONFIG_NAME = "config.yaml"
# Settings that do not change what is learned: not in the directory's name, not in the hash.
FREE = ("runs", "resume", "steps", "device", "threads", "logging", "checkpoint")
_ELSEWHERE = ("env", "agent", "seed")  # named by a directory of their own


def is_free(key: str) -> bool:
    """Whether the (dotted) key may differ between sessions of one run."""
    return key.split(".")[0] in FREE


def run_directory(config: Config, env_name: str, overrides: list[str]) -> Path:
    """runs/<env>/<agent>[+sorted overrides]/seed_<k>."""
    named = sorted(o.lstrip("+") for o in overrides if _names_run(o))
    agent = "+".join([config.agent.name, *(_safe(o) for o in named)])
    return Path(config.runs) / _safe(env_name) / agent / f"seed_{config.seed}"


def _names_run(override: str) -> bool:
    key = override.lstrip("+~").split("=", 1)[0]
    return (
        not is_free(key) and key not in (*_ELSEWHERE, "env.id", "env.steps") and not key.startswith("hydra")
    )


def _safe(text: str) -> str:
    """Letters, digits and a few signs; anything else becomes '_'."""
    return re.sub(r"[^A-Za-z0-9_.=,+-]+", "_", text)[:120].strip("_")


def fingerprint(config: Config) -> str:
    """Hash of all settings that change what is learned."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in FREE}
    values["env"] = {k: v for k, v in values["env"].items() if k not in ("steps", "solved")}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write_config(directory: Path, config: Config) -> None:
    """Keep the resolved config with the run."""
    directory.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)
    (directory / CONFIG_NAME).write_text(f"# fingerprint: {fingerprint(config)}\n{text}")


def read_config(directory: Path) -> Config:
    """The config of an earlier session. Raises ConfigError."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"{directory} is no run directory: it has no {CONFIG_NAME}")
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text())
        return build(Config, values)
    except (yaml.YAMLError, ConfigError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def check_same_run(directory: Path, config: Config) -> None:
    """Raises ConfigError when the directory holds a run with other settings."""
    if not (directory / CONFIG_NAME).exists():
        return
    before = read_config(directory)
    if fingerprint(before) != fingerprint(config):
        changed = ", ".join(_differences(dataclasses.asdict(before), dataclasses.asdict(config)))
        raise ConfigError(
            f"{directory} holds a run with other settings ({changed}): remove it, or keep both with runs=<another folder>"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key in now:
        if not path and key in FREE:
            continue
        if isinstance(now[key], dict) and isinstance(before.get(key), dict):
            found += _differences(before[key], now[key], f"{path}{key}.")
        elif before.get(key) != now[key]:
            found.append(f"{path}{key} {before.get(key)} → {now[key]}")
    return found
