"""What a run leaves for its reader: metrics.jsonl, TensorBoard, progress lines."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.metrics import MetricsLog, RunningMeans
from qdreamer.agents.reporting.progress import Progress, duration
from qdreamer.agents.reporting.reporting import Reporter
from qdreamer.agents.reporting.writers.jsonl import JsonLines
from qdreamer.agents.reporting.writers.monitor import LAYOUT
from qdreamer.agents.reporting.writers.writer import Writer
from qdreamer.agents.training.session import run_session
from qdreamer.configs.schema import ConfigError

SMALL = [
    "world_model.units=8", "world_model.deter=8", "world_model.hidden=8", "world_model.stoch=2",
    "train.batch_size=2", "train.batch_length=8", "train.replay_ratio=16", "train.prefill=40",
    "agent.imagination_starts=4", "evaluation.every=100", "evaluation.episodes=2", "evaluation.horizon=15",
    "logging.every=50", "logging.pictures_every=100", "logging.video_every=200", "logging.video_frames=10",
    "steps=200",
]  # fmt: skip


def test_a_run_fills_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "CartPole" / "classical" / "seed_0"
    assert run_session(load_config(SMALL), run) == 0
    board = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    board.Reload()
    tags = board.Tags()
    wanted = {
        "train/return", "train/length", "eval/return", "eval/return_low", "eval/return_high", "eval/length",
        "loss/observation", "loss/reward", "loss/continue", "loss/dynamics", "loss/representation",
        "loss/policy", "loss/value", "loss/replay_value", "actor/entropy", "critic/value",
        "critic/return_spread", "gradient_norm/actor", "gradient_norm/rssm", "open_loop/mse_01",
        "open_loop/persistence_01", "time/env", "time/replay", "time/world_model", "time/imagination",
        "time/behaviour", "time/backward", "time/optimizer", "time/evaluation",
        "world_model/prior_entropy", "world_model/posterior_entropy",
    }  # fmt: skip
    assert wanted <= set(tags["scalars"])
    assert {"open_loop/traces", "eval/video"} <= set(tags["images"])
    gif = board.Images("eval/video")[-1].encoded_image_string
    assert gif[:6] == b"GIF89a"
    assert "config/text_summary" in tags["tensors"]
    # HPARAMS live in the run's own events: no stray sub-run appears beside it.
    assert len(list(tmp_path.rglob("events.out.*"))) == 1
    assert "_hparams_/experiment" in board.summary_metadata
    # The source of truth agrees with what TensorBoard shows.
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval/return" in line]
    shown = board.Scalars("eval/return")
    assert [(e["step"], pytest.approx(e["eval/return"])) for e in evaluations] == [
        (s.step, s.value) for s in shown
    ]
    out = capsys.readouterr().out
    assert "done: 200 steps" in out
    assert f"qdreamer evaluate {run}" in out
    assert "tensorboard --logdir" in out


def test_the_component_monitor_finds_what_a_hybrid_run_logs(tmp_path: Path) -> None:
    small = [
        "agent=hybrid",
        "world_model.core=8",
        *("env=Pendulum", "env.max_episode_steps=40"),  # long enough to be predicted
        "world_model.memory=8",
        "sequence.head=4",
        "optimizer=hybrid",
        "optimizer.every=4",
    ]
    run = tmp_path / "run"
    assert run_session(load_config([*SMALL, "agent=hybrid", *small]), run) == 0
    board = EventAccumulator(str(run), size_guidance={"scalars": 0})
    board.Reload()
    (event,) = board.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(LAYOUT)
    scalars = board.Tags()["scalars"]
    titles = {chart.title for category in layout.category for chart in category.chart}
    all_titles = {title for charts in LAYOUT.values() for title in charts}
    assert all_titles - titles == {"pool of shots: distance to the target"}  # of circuits
    for category in layout.category:
        for chart in category.chart:
            margins = [tag for s in chart.margin.series for tag in (s.value, s.lower, s.upper)]
            for pattern in {*chart.multiline.tag, *margins}:
                assert any(re.match(pattern, tag) for tag in scalars), pattern
            for names in (re.search(r"time/\((.*)\)", tag) for tag in chart.multiline.tag):
                parts = set(names[1].split("|")) - {"quantum"} if names else set()
                assert {f"time/{part}" for part in parts} <= set(scalars)


def test_running_means_match_plain_means_and_survive_a_checkpoint() -> None:
    means, other = RunningMeans(), RunningMeans()
    values = [0.5, 2.0, 4.5]
    for i, value in enumerate(values):
        means.add({"a": torch.tensor(value), "b": torch.tensor(-value)})
        if i == 1:
            other.load_state_dict(means.state_dict())
            other.add({"a": torch.tensor(values[2]), "b": torch.tensor(-values[2])})
    expected = {"a": sum(values) / 3, "b": -sum(values) / 3}
    assert means.read() == pytest.approx(expected)
    assert other.read() == pytest.approx(expected)
    assert means.read() == {}


def test_running_means_go_by_name() -> None:
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    means.add({"b": torch.tensor(4.0), "a": torch.tensor(3.0)})
    for other in ({"a": torch.tensor(1.0)}, {"a": torch.tensor(1.0), "c": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=r"different metrics: .*b"):
            means.add(other)
    assert means.read() == {"a": 2.0, "b": 3.0}
    means.add({"c": torch.tensor(5.0)})  # a new line may have other names
    assert means.read() == {"c": 5.0}


def test_log_is_cut_back_on_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ["jsonl"])
    log.scalars(1, {"a": 1.0})
    positions = log.positions()
    log.scalars(2, {"a": 2.0})
    log.close()
    log = MetricsLog(tmp_path, ["jsonl"], (positions, 1))
    log.scalars(3, {"a": 3.0})
    log.close()
    assert [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 3]


def test_an_output_that_is_new_to_a_run_begins_where_the_run_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ["jsonl"])
    log.scalars(1, {"a": 1.0})
    positions = log.positions()
    log.close()
    log = MetricsLog(tmp_path, ["jsonl", "tensorboard"], (positions, 1))
    log.scalars(2, {"a": 2.0})
    log.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("a")] == [(2, 2.0)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("writers", "answer"),
    [
        ("[tensorboard]", r"must hold jsonl"),
        ("[jsonl,jsonl]", r"twice"),
        ("[jsonl,tensorbord]", r"logging\.writers.*tensorbord.*did you mean tensorboard"),
    ],
)
def test_outputs_are_checked_beforehand(writers: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        load_config([f"logging.writers={writers}"])


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ["jsonl"])
    with pytest.raises(FloatingPointError, match="loss/value is not finite at step 7"):
        log.scalars(7, {"loss/value": float("nan"), "a": 1.0})
    log.close()


def test_progress_counts_frames_where_actions_are_repeated() -> None:
    progress = Progress(1000, 0, 0, io.StringIO(), repeat=4)
    assert progress.line(400, 150, 10.0).startswith("step 400/1000 (1600 frames) · ")


def test_progress_lines() -> None:
    stream = io.StringIO()
    progress = Progress(1000, 200, 50, stream)
    progress.episode(21.0)
    progress.evaluation(300, 480.25, 470.0, 490.0, 20)
    assert stream.getvalue() == "step 300: evaluation 480.2 [470.0, 490.0] over 20 episodes\n"
    stream.truncate(stream.seek(0))
    assert progress.line(400, 150, 10.0) == (
        "step 400/1000 · return 21.0 · evaluation 480.2 · 20 steps/s · 10.0 updates/s · ETA 30 s"
    )
    progress.show(400, 150)  # too soon after the start: no flood of lines
    assert stream.getvalue() == ""
    progress.show(400, 150, force=True)
    assert stream.getvalue().startswith("step 400/1000 · return 21.0")


def test_a_narrow_terminal_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar's words wrap, and evaluations stay above it."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    progress = Progress(100_000, 0, 0, stream)
    progress.episode(-1234.5)
    progress.evaluation(500, -1300.0, -1400.0, -1200.0, 20)
    progress.show(500, 250, force=True)
    assert progress._bar is not None
    progress._bar.refresh()
    words = progress.line(500, 250, 1.0).split(" · ")
    progress.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "step 500: evaluation -1300.0 [-1400.0, -1200.0] over 20 episodes\n" in plain
    assert "…" not in plain and max(len(line) for line in re.split(r"[\r\n]", plain)) <= 80
    for word in ("step 500/100000", "return -1234.5", words[2]):
        assert word in " ".join(plain.split())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (7800, "2:10 h"), (float("inf"), "–")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_histograms_of_nothing_are_left_out(tmp_path, make_config):
    """Before the first draw a sampler has no weights to show; TensorBoard refuses an empty histogram."""
    log = MetricsLog(tmp_path, ["jsonl", "tensorboard"])
    sampler = SimpleNamespace(histograms=lambda: {"empty": np.zeros(0), "full": np.ones(3)})
    config = make_config()
    reporter = Reporter(config.env, config.evaluation, config.logging, config.steps, 8, log, tmp_path)
    reporter.histograms(1, sampler)
    log.close()
    (events,) = tmp_path.glob("events*")
    assert b"full" in events.read_bytes()
    assert b"empty" not in events.read_bytes()


class Failing(Writer):
    """An output whose every call fails."""

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        self.calls = 0

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.calls += 1
        raise OSError("no space left on device")


def test_an_output_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But not the source of truth."""
    log = MetricsLog(tmp_path, ["jsonl"])
    failing = Failing(tmp_path, None, 0)
    log._writers["failing"] = failing
    log.scalars(1, {"a": 1.0})
    log.scalars(2, {"a": 2.0})
    assert failing.calls == 1
    assert capsys.readouterr().err.count("warning: failing is left out") == 1
    monkeypatch.setattr(Failing, "essential", True)
    log._writers["failing"] = failing
    with pytest.raises(OSError, match="no space"):
        log.scalars(3, {"a": 3.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ["jsonl"])
    log.scalars(1, {"a": 1.0})
    writer = log._writers["jsonl"]
    assert isinstance(writer, JsonLines)
    whole, inner = (tmp_path / "metrics.jsonl").read_bytes(), writer._file

    class Short:
        """A disk with room for three more bytes."""

        def write(self, text: bytes) -> int:
            return inner.write(text[:3])

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

    writer._file = Short()  # type: ignore[assignment]
    with pytest.raises(OSError, match="no space for another line"):
        log.scalars(2, {"a": 2.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    writer._file = inner
    log.scalars(3, {"a": 3.0})
    assert log.positions()["jsonl"] == (tmp_path / "metrics.jsonl").stat().st_size
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 3]
