"""Outputs beside metrics.jsonl: the same numbers, offline."""

import csv
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from qdreamer.agents.reporting.metrics import MetricsLog
from qdreamer.agents.reporting.writers.monitor import LAYOUT, layout
from qdreamer.configs.schema import ConfigError

SETTINGS = {
    "seed": 3,
    "env": {"id": "CartPole-v1", "hide": []},
    "optimizer": {"name": "laprop", "lr": 0.5, "eps": 1},
}


def write(directory: Path, *writers: str) -> MetricsLog:
    directory.mkdir(parents=True, exist_ok=True)
    log = MetricsLog(directory, ["jsonl", *writers])
    log.begin(SETTINGS)
    log.scalars(1, {"train/return": 1.0})
    log.scalars(2, {"eval/return": 2.0, "eval/return_low": 1.5, "eval/return_high": 2.5, "loss/reward": 0.5})
    log.histogram(2, "replay/weight", np.ones(3))
    log.image(2, "attention/maps", np.zeros((4, 4, 3), np.uint8))
    return log


def test_csv_holds_what_jsonl_holds_and_is_cut_back_on_resume(tmp_path: Path) -> None:
    log = write(tmp_path, "csv")
    positions = log.positions()
    log.scalars(3, {"loss/reward": 9.0})
    log.close()
    log = MetricsLog(tmp_path, ["jsonl", "csv"], (positions, 2))
    log.scalars(3, {"loss/reward": 0.25})
    log.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [(line["step"], k, v) for line in lines for k, v in line.items() if k != "step"]
    assert [(int(row["step"]), row["name"], float(row["value"])) for row in rows] == expected
    assert expected[-1] == (3, "loss/reward", 0.25)


def test_csv_begins_anew_where_it_was_not_there(tmp_path: Path) -> None:
    positions = write(tmp_path).positions()
    log = MetricsLog(tmp_path, ["jsonl", "csv"], (positions, 2))
    log.scalars(3, {"a": 1.0})
    log.close()
    assert (tmp_path / "metrics.csv").read_text() == "step,name,value\n3,a,1.0\n"


def board(directory: Path) -> EventAccumulator:
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    found.Reload()
    return found


def test_tensorboard_shows_the_return_first_and_no_empty_chart(tmp_path: Path) -> None:
    write(tmp_path, "tensorboard").close()
    found = board(tmp_path)
    assert sorted(found.Tags()["scalars"])[:2] == ["0_return/evaluation", "0_return/training"]
    assert [event.value for event in found.Scalars("0_return/evaluation")] == [2.0]
    (event,) = found.Tensors("custom_scalars__config__")
    shown = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [[chart.title for chart in category.chart] for category in shown.category] == [
        ["return on unseen episodes, 95 % interval"]
    ]


def test_the_charts_are_laid_out_once_all_has_been_logged(tmp_path: Path) -> None:
    log = write(tmp_path, "tensorboard")
    log.scalars(3, {"gradient_norm/actor": 1.0})
    log.scalars(4, {"eval/return": 2.0})
    log.scalars(5, {"replay/entropy": 1.0})
    log.close()
    (event,) = board(tmp_path).Tensors("custom_scalars__config__")
    shown = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    titles = [category.title for category in shown.category]
    assert titles == ["Learning", "Components: what they cost and how hard they are pulled"]


def test_lines_of_a_chart_have_names_of_their_own() -> None:
    tags = [
        *("eval/return", "open_loop/mse_15", "open_loop/persistence_15", "gradient_norm/rssm"),
        *("optimizer/approximation_ratio", "optimizer/approximation_ratio_mean"),
    ]
    for charts in layout(tags).values():
        for kind, patterns in charts.values():
            assert kind == "Margin" or len(set(patterns)) == len(patterns)  # type: ignore[call-overload]
    patterns = layout(tags)["Hybrid optimizer"]["approximation ratio: chosen bits, mean sample"][1]
    assert len(patterns) == 2  # type: ignore[arg-type]
    assert set(layout(tags)) < set(LAYOUT)


def test_hparams_hold_what_varies(tmp_path: Path) -> None:
    write(tmp_path / "hybrid+optimizer.lr=0.5" / "seed_3", "tensorboard").close()
    found = board(tmp_path / "hybrid+optimizer.lr=0.5" / "seed_3")
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    data = plugin_data_pb2.HParamsPluginData.FromString(content)
    assert set(data.session_start_info.hparams) == {"seed", "env.id", "optimizer.name", "optimizer.lr"}


def test_libraries_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=rf"\[{name}\] needs {name}: pip install 'qdreamer\[{name}\]'"):
            MetricsLog(tmp_path, ["jsonl", name])


def test_wandb_gets_numbers_pictures_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library's interface; `test_wandb_offline` has the library itself."""
    calls: list[Any] = []
    config: dict[str, Any] = {}
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)),
        dir=str(tmp_path),
        finish=lambda: calls.append("end"),
        config=SimpleNamespace(update=lambda values, **_: config.update(values)),
    )
    module: Any = ModuleType("wandb")
    module.init = lambda **arguments: calls.append(arguments) or run
    module.Histogram, module.Image = (lambda values: "histogram"), (lambda image: "image")
    module.Video = lambda path, format: Path(path).read_bytes()
    monkeypatch.setitem(sys.modules, "wandb", module)
    log = write(tmp_path / "CartPole" / "hybrid" / "seed_0", "wandb")
    log.video(2, "eval/video", b"GIF89a", (4, 4))
    log.close()
    begin, *logged = calls
    assert begin["name"] == "CartPole/hybrid/seed_0" and begin["group"] == "hybrid"
    assert begin["resume"] == "allow" and config == SETTINGS
    assert logged == [
        (1, {"train/return": 1.0}),
        (2, {"eval/return": 2.0, "eval/return_low": 1.5, "eval/return_high": 2.5, "loss/reward": 0.5}),
        (2, {"replay/weight": "histogram"}),
        (2, {"attention/maps": "image"}),
        (2, {"eval/video": b"GIF89a"}),
        "end",
    ]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="an extra")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "CartPole" / "hybrid" / "seed_0"
    write(run, "wandb").close()
    importlib.import_module("wandb").teardown()  # its service has written everything
    (file,) = run.rglob("*.wandb")
    assert b"eval/return" in file.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="an extra")
def test_mlflow_gets_numbers_pictures_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "CartPole" / "hybrid" / "seed_0"
    log = write(run, "mlflow")
    positions = log.positions()
    log.close()
    log = MetricsLog(run, ["jsonl", "mlflow"], (positions, 2))  # the same run goes on
    log.scalars(3, {"loss/reward": 0.25})
    log.close()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("CartPole")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.run_name == "hybrid/seed_0" and kept.data.params["optimizer.lr"] == "0.5"
    assert [metric.value for metric in client.get_metric_history(kept.info.run_id, "loss/reward")] == [
        0.5,
        0.25,
    ]
