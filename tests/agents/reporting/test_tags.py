"""The table of what a run logs: complete, and the page that it makes."""

import json
from pathlib import Path

import pytest

import qdreamer
from qdreamer.agents.reporting.tags import TAGS, meaning, page
from qdreamer.agents.reporting.writers.monitor import LAYOUT

ROOT = Path(__file__).parents[3]


def test_the_page_is_the_table() -> None:
    assert (ROOT / "docs" / "tags.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("agent", ["classical", "hybrid_with_optimizer"])
def test_every_name_of_a_run_has_a_meaning(agent: str, tmp_path: Path) -> None:
    core = "deter" if agent == "classical" else "core"
    words = [
        "world_model.units=16", f"world_model.{core}=16", "world_model.hidden=16", "train.batch_size=4",
        "train.batch_length=8", "train.replay_ratio=16", "train.prefill=64", "logging.writers=[jsonl]",
        "evaluation.episodes=2", "logging.every=20",
    ]  # fmt: skip
    run = qdreamer.train(*words, env="CartPole", agent=agent, steps=100, runs=str(tmp_path))
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    names = {name for line in lines for name in json.loads(line)}
    assert len(names) > 40
    assert [name for name in sorted(names) if meaning(name) is None] == []


def test_names_that_charts_show_are_in_the_table() -> None:
    shown = [line[1] for charts in LAYOUT.values() for line in charts.values()]
    plain = [tag for tags in shown for tag in tags if "(" not in tag]  # type: ignore[attr-defined]
    assert [tag for tag in plain if meaning(tag.replace(".*", "x")) is None] == []


def test_the_longest_pattern_wins() -> None:
    assert meaning("optimizer/multiplier/rssm") == TAGS["optimizer/multiplier/NAME"]
    assert meaning("loss/nothing") is None
