"""Videos, pictures, curves and closing are not training: what fails in them is said, and the run goes on."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import Evaluator
from qdreamer.agents.reporting import reporting
from qdreamer.agents.reporting.metrics import MetricsLog
from qdreamer.agents.reporting.pictures import gif, record_video
from qdreamer.agents.reporting.progress import PLAIN_INTERVAL, Progress
from qdreamer.agents.reporting.reporting import Reporter
from qdreamer.agents.training.training import make_agent
from qdreamer.envs.edge import guard
from qdreamer.envs.edge.guard import EnvError
from tests.agents.interaction.test_collector import SMALL
from tests.envs.misbehaving import Odd, register


class Camera(Odd):
    """Shows frames of one kind."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - Gymnasium's convention

    def __init__(self, kind: str, render_mode: str | None = None) -> None:
        super().__init__("close_raise", render_mode=render_mode)
        self.frame = {
            "rgb": np.zeros((40, 60, 3), np.uint8), "rgba": np.full((40, 60, 4), 255, np.uint8),
            "grey": np.zeros((40, 60), np.uint8), "one": np.zeros((40, 60, 1), np.uint8), "none": None,
            "words": "a picture",
        }.get(kind, ())  # fmt: skip

    def render(self) -> Any:
        return sys.exit("no screen") if isinstance(self.frame, tuple) else self.frame


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(gymnasium.registry)
    register()
    gymnasium.register("Camera-v0", entry_point=Camera)
    monkeypatch.setattr(guard, "_said", set())
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def config(*words: str) -> Any:
    return load_config([*SMALL, "env=gym", *words])


@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey", "one"])
def test_frames_of_all_kinds_become_a_video(kind: str) -> None:
    made = config("env.id=Camera-v0", f"env.kwargs.kind={kind}")
    frames = record_video(make_agent(made), made.env, 0, True, 4)
    assert [frame.mode for frame in frames] == ["RGB"] * 4
    assert gif(frames).startswith(b"GIF")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("none", "render() gave"), ("words", "not a picture"), ("exit", "SystemExit: no screen")],
)
def test_what_cannot_be_rendered_is_said(kind: str, words: str) -> None:
    made = config("env.id=Camera-v0", f"env.kwargs.kind={kind}")
    with pytest.raises(EnvError) as caught:
        record_video(make_agent(made), made.env, 0, True, 4)
    said = str(caught.value)
    assert words in said and "\n" not in said
    assert said.count("cannot be rendered here") == 1 and "EnvError" not in said and "pictures.py" not in said


def test_a_failing_video_is_tried_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(
        "env.id=Odd-v0", "logging.video_every=1", "logging.pictures_every=1", "evaluation.horizon=5"
    )
    agent, calls = make_agent(made), []

    def failing(*_: Any) -> Any:
        calls.append(1)
        raise RuntimeError("the film tore")

    monkeypatch.setattr(reporting, "record_video", failing)
    monkeypatch.setattr(reporting, "open_loop_picture", failing)
    log = MetricsLog(tmp_path, ["jsonl", "tensorboard"])
    reporter = Reporter(made.env, made.evaluation, made.logging, 100, 4, log, tmp_path)
    evaluator = Evaluator(made.env, 2, 0, True, 20)
    for step in (50, 100):
        reporter.evaluation(step, agent, evaluator.run(agent), (0.0, 0.0, 0.0), 1.0)
    evaluator.close()
    log.close()
    assert len(calls) == 2
    assert set(reporter.problems) == {"videos", "pictures"}
    assert "RuntimeError: the film tore" in reporter.problems["videos"]


@pytest.mark.parametrize("clock", [1000.0, -1000.0, 0.0])
def test_tensorboard_shows_sessions_in_order_whatever_the_clock_says(
    clock: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for session, (begin, end) in enumerate([(1, 6), (4, 9), (7, 12)]):  # each goes on before that
        monkeypatch.setattr(time, "time", lambda: now - session * clock)  # noqa: B023
        log = MetricsLog(tmp_path, ["tensorboard"], None if session == 0 else ({}, begin - 1))
        for step in range(begin, end):
            log.scalars(step, {"value": 10.0 * session + step})
        log.close()
    monkeypatch.undo()
    board = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    board.Reload()
    shown = [(event.step, event.value) for event in board.Scalars("value")]
    assert shown == [(step, step + 10.0 * ((step > 3) + (step > 6))) for step in range(1, 12)]


def test_episodes_without_an_end_are_cut_and_the_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    made = config("env.id=Odd-v0", "env.kwargs.fault=ends_never")
    told: list[int] = []
    evaluator = Evaluator(made.env, 2, 0, True, 30)
    episodes = evaluator.run(make_agent(made), tell=told.append)
    evaluator.run(make_agent(made))
    evaluator.close()
    assert [episode.steps for episode in episodes] == [30, 30]
    assert told == list(range(1, 31))
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 2 evaluation episodes of env.id=Odd-v0 did not end within evaluation.max_steps=30" in line
    assert "env.max_episode_steps=… gives them an end" in line


def test_long_evaluations_show_how_far_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(100, 0, 0)
    progress.evaluating(3199, 10000)
    progress._shown -= PLAIN_INTERVAL
    progress.evaluating(3200, 10000)
    progress.evaluating(3201, 10000)
    assert capsys.readouterr().out == "evaluating 3,200/10,000\n"
