"""The forty environments' script: rows that exist, environments that keep to their spaces, a table."""

import warnings

import pytest

from benchmarks.environments import CUSTOM, PRESETS, ROWS, same, table
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.overrides import groups
from qdreamer.envs.factory import check_env


def test_there_are_forty_and_their_presets_exist() -> None:
    assert len(ROWS) == 40
    assert set(PRESETS) <= set(groups()["env"])


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_environments_keep_to_their_spaces(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Gymnasium's checker warns
        check_env(load_config(ROWS[f"custom {name}"]).env)


def test_a_failed_row_says_why() -> None:
    rows = [{"name": "CartPole", "failed": "EnvError: no"}]
    assert table(rows).splitlines()[-1].startswith("| CartPole | EnvError: no |")


def test_states_are_compared_bit_for_bit() -> None:
    assert same({"a": [1.0, (2,)]}, {"a": [1.0, (2,)]})
    assert not same({"a": [1.0, (2,)]}, {"a": [1.0, (3,)]})
    assert not same({"a": 1}, {"b": 1})
