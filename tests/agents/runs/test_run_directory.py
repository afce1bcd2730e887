"""Where runs live: stable names, fingerprints, refusal of other runs, configs that come back equal."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.agents.cli.command_line import prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.run_directory import (
    CONFIG_NAME,
    FREE,
    check_same_run,
    fingerprint,
    is_free,
    read_config,
    run_directory,
    write_config,
)
from qdreamer.configs.schema import ConfigError

FREE_SETTINGS = [
    "runs=elsewhere",
    "steps=7",
    "device=cuda",
    "threads=3",
    "logging.every=9",
    "logging.writers=[jsonl]",
    "checkpoint.every=3",
    "env.steps=99",
    "env.solved=1",
]
LEARNING_SETTINGS = [
    "seed=1",
    "env=Acrobot",
    "env.hide=[1]",
    "env.num_envs=2",
    "env.kwargs.sutton_barto_reward=true",
    "world_model=1M",
    "world_model.unimix=0.02",
    "sequence.layers=2",
    "agent.entropy.discrete=1e-3",
    "agent.loss_scales.policy=2",
    "agent.return_percentiles=[10,90]",
    "replay.beta=[0,0]",
    "optimizer.lr=1.5e-4",
    "train.batch_size=5",
    "evaluation.seed=1",
]


def name(overrides: list[str]) -> Path:
    return run_directory(load_config(overrides), "CartPole", overrides)


def test_names() -> None:
    assert name([]) == Path("runs/CartPole/hybrid/seed_0")
    assert name(["seed=3", "runs=a/b"]) == Path("a/b/CartPole/hybrid/seed_3")
    assert name(["agent=classical", "world_model=1M", "optimizer.lr=1e-3"]) == Path(
        "runs/CartPole/classical+optimizer.lr=1e-3+world_model=1M/seed_0"
    )


def test_names_do_not_depend_on_the_order_or_the_prefix() -> None:
    overrides = ["optimizer.lr=1e-3", "env.hide=[1,3]", "world_model=1M", "seed=2"]
    names = {name(list(order)) for order in itertools.permutations(overrides)}
    assert len(names) == 1
    assert (
        name([f"++{override}" for override in overrides if "=1M" not in override] + ["world_model=1M"])
        in names
    )


@pytest.mark.parametrize("setting", FREE_SETTINGS)
def test_free_settings_change_neither_name_nor_fingerprint(setting: str) -> None:
    config = load_config([setting])
    assert config != load_config([])
    assert name([setting]).parts[-3:] == name([]).parts[-3:]
    assert fingerprint(config) == fingerprint(load_config([]))


@pytest.mark.parametrize("setting", LEARNING_SETTINGS)
def test_learning_settings_change_the_fingerprint(setting: str) -> None:
    assert fingerprint(load_config([setting])) != fingerprint(load_config([]))
    if not setting.startswith("env="):  # the caller names the environment
        assert name([setting]) != name([])


def test_is_free_covers_whole_sections() -> None:
    assert all(is_free(key) for key in (*FREE, "logging.every", "checkpoint.every"))
    assert not any(is_free(key) for key in ("seed", "env.steps", "loggings.every", "train.batch_size"))


@pytest.mark.parametrize(
    "override",
    [
        "env.hide=[1,3]",
        'env.kwargs.map="a b/../c:*?<>|"',
        "env.kwargs.map='ü→\"x\"'",
        "env.kwargs.desc={a:[1,2],b:${seed}}",
        "env.kwargs.long=" + "x" * 400,
        "env.kwargs.dots=..",
    ],
)
def test_odd_characters_make_plain_names(override: str, tmp_path: Path) -> None:
    overrides = [override]
    directory = run_directory(load_config([f"runs={tmp_path}"]), "ALE/Pong-v5", overrides)
    inside = directory.relative_to(tmp_path)
    assert len(inside.parts) == 3
    assert inside.parts[0] == "ALE_Pong-v5"
    for part in inside.parts:
        assert re.fullmatch(r"[A-Za-z0-9_.=+-]{1,200}", part) and set(part) != {"."}
    directory.mkdir(parents=True)
    assert shlex.split(str(inside)) == [str(inside)], "needs no quotes in a shell"


def test_long_names_stay_apart() -> None:
    long = [f"env.kwargs.key{i}=a_rather_long_value" for i in range(20)]
    assert name(long) == name(long[::-1])
    assert name(long) != name([*long[:-1], "env.kwargs.key19=another_value"])


@pytest.mark.parametrize("override", ["optimizer.lr=1e-3", "env.hide=[1,3]", "env.kwargs.a='x=y'"])
def test_every_directory_can_be_resumed_by_its_name(override: str, tmp_path: Path) -> None:
    """The command that a run prints at its end must work."""
    config = load_config([f"runs={tmp_path}"])
    directory = run_directory(config, "CartPole", [override])
    write_config(directory, config)
    assert prepare([f"resume={directory}"])
    assert load_config([f"resume={directory}"]).resume == str(directory)


def test_the_same_run_is_welcome(tmp_path: Path) -> None:
    check_same_run(tmp_path, load_config([]))  # nothing there yet
    write_config(tmp_path, load_config([]))
    check_same_run(tmp_path, load_config([]))
    check_same_run(tmp_path, load_config(["steps=5", "logging.every=3", "device=cuda", "env.solved=3"]))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.lr=1e-4", "optimizer.lr 0.001 → 0.0001"),
        ("env.hide=[1,3]", "env.hide [] → [1,3]"),
        ("agent.loss_scales.policy=2", "agent.loss_scales.policy 1 → 2"),
        ("env.kwargs.a=true", "env.kwargs.a null → true"),
        ("env.max_episode_steps=9", "env.max_episode_steps null → 9"),
        ("optimizer=hybrid", "optimizer.name laprop → hybrid"),  # whose own settings are not listed
    ],
)
def test_another_run_is_refused_by_key(setting: str, words: str, tmp_path: Path) -> None:
    write_config(tmp_path, load_config(["steps=5", "optimizer.lr=1e-3", "env.solved=3"]))
    with pytest.raises(ConfigError) as caught:
        check_same_run(tmp_path, load_config(["optimizer.lr=1e-3", setting]))
    message = str(caught.value)
    assert f"holds a run with other settings ({words}): remove it" in message
    assert "runs=<another folder>" in message and message.endswith(f"resume={tmp_path}")


def test_removed_keys_are_named_too(tmp_path: Path) -> None:
    write_config(tmp_path, load_config(["env.kwargs.a=3"]))
    with pytest.raises(ConfigError, match=r"\(env.kwargs.a 3 → null\)"):
        check_same_run(tmp_path, load_config([]))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["env=LunarLander", "world_model=12M", "optimizer.eps=1e-30", "agent.lambda_=1"],
        ["env.hide=[1,3]", "env.max_episode_steps=7", "steps=123456", "resume=some/where"],
        ["env.kwargs.a='on: ü'", "env.kwargs.b=[1,[2.5,null]]", "env.kwargs.c={d:true}", "runs='~a #b'"],
    ],
)
def test_configs_come_back_equal(overrides: list[str], tmp_path: Path) -> None:
    config = load_config(overrides)
    write_config(tmp_path / "a" / "b", config)
    back = read_config(tmp_path / "a" / "b")
    assert back == config
    assert fingerprint(back) == fingerprint(config)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [CONFIG_NAME]


@given(
    st.floats(1e-300, 10.0),
    st.integers(0, 2**31 - 1),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
)
def test_any_values_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, lr: float, seed: int, kwargs: dict[str, Any]
) -> None:
    config = load_config([])
    config = dataclasses.replace(
        config,
        seed=seed,
        optimizer=dataclasses.replace(config.optimizer, lr=lr),
        env=dataclasses.replace(config.env, kwargs=kwargs),
    )
    directory = tmp_path_factory.mktemp("run")
    write_config(directory, config)
    assert read_config(directory) == config


def _truncate(values: dict[str, Any]) -> str:
    del values["optimizer"]["lr"]
    return yaml.safe_dump(values)


def _extend(values: dict[str, Any]) -> str:
    values["optimizer"]["learning_rate"] = 1
    return yaml.safe_dump(values)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda values: "", "it holds no settings"),
        (lambda values: "- 1", "it holds no settings"),
        (lambda values: "seed: [", "cannot be read"),
        (lambda values: "\x00", "cannot be read"),
        (lambda values: "seed: 2020-13-45", "month must be in 1..12"),
        (lambda values: "[" * 3000, "recursion"),
        (_truncate, "optimizer.lr is missing"),
        (_extend, "unknown key optimizer.learning_rate"),
    ],
)
def test_damaged_configs_are_refused_in_one_line(
    damage: Callable[[dict[str, Any]], str], words: str, tmp_path: Path
) -> None:
    write_config(tmp_path, load_config([]))
    path = tmp_path / CONFIG_NAME
    path.write_text(damage(yaml.safe_load(path.read_text())))
    for attempt in (lambda: read_config(tmp_path), lambda: check_same_run(tmp_path, load_config([]))):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert words in str(caught.value) and str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="is not a run directory"):
        read_config(tmp_path / CONFIG_NAME)


def test_the_fingerprint_is_written_with_the_config(tmp_path: Path) -> None:
    config: Config = load_config(["seed=9"])
    write_config(tmp_path, config)
    assert (tmp_path / CONFIG_NAME).read_text().startswith(f"# fingerprint: {fingerprint(config)}\n")
