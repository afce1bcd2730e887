"""What becomes of environments that misbehave: refused before training, ended in one line, or survived."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.edge import guard
from qdreamer.envs.edge.guard import EnvFailure, Watch, WrongValueError, told_apart
from qdreamer.envs.factory import EnvError, check_env, make_vector
from tests.envs.misbehaving import LATE, register

COPIES = 2


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(gymnasium.registry)
    register()
    monkeypatch.setattr(guard, "_said", set())
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def env_config(name: str, vectorization: str = "sync", **kwargs: Any) -> EnvConfig:
    env = replace(load_config([]).env, id=f"{name}-v0", kwargs=kwargs)
    return replace(env, num_envs=COPIES, vectorization=vectorization)


def play(config: EnvConfig, steps: int = 2 * LATE) -> None:
    """Train's way without an agent."""
    envs = make_vector(config, COPIES)
    try:
        observation, _ = envs.reset(seed=[0, 2])
        random = np.random.default_rng(0)
        for _ in range(steps):
            actions = envs.interface.action.random(COPIES, random, observation.get("action_mask"))
            observation, reward, terminal, truncated, info = envs.step(actions)
            assert not info and np.isfinite(reward).all()
            for values in observation.values():
                assert np.isfinite(values).all()
            if (done := terminal | truncated).any():
                observation, _ = envs.reset(seed=[0, 2], options={"reset_mask": done})
    finally:
        envs.close()


REFUSED = [  # environment, fault, when, words of the line
    ("Odd", "shows_raise", "init", "cannot be made with env.kwargs.fault=shows_raise"),
    ("Odd", "shows_exit", "init", "SystemExit: the simulator says good-bye"),
    ("Odd", "shows_raise", "reset", "ValueError: no such thing"),
    ("Odd", "shows_raise", "step", "failed in step 1 of episode 1 of copy 1 of 2 (seed 0) with action"),
    ("Odd", "shows_exit", "step", "SystemExit"),
    ("Odd", "shows_ctrl_c", "step", "KeyboardInterrupt"),
    ("Odd", "shows_nan", "reset", "reset of episode 1 of copy 1 of 2 (seed 0): entry observation is nan"),
    ("Odd", "shows_nan", "step", "entry observation is nan at index 1"),
    ("Odd", "shows_inf", "step", "entry observation is inf at index 0"),
    ("Odd", "shows_overflow", "step", "entry observation is inf at index 1"),
    ("Odd", "shows_none", "reset", "entry observation is None, not of Box(-1, 1, (2,), float32)"),
    ("Odd", "shows_long", "reset", "entry observation has the shape (3,) and type float32"),
    ("Odd", "shows_empty", "step", "the shape (0,)"),
    ("Odd", "shows_objects", "step", "entry observation is [None, 1.0]"),
    ("Odd", "shows_words", "step", "entry observation is ['a', 'b']"),
    ("Odd", "shows_complex", "step", "not of Box(-1, 1, (2,), float32)"),
    ("Odd", "reward_nan", "step", "the reward is nan"),
    ("Odd", "reward_none", "step", "the reward is None, not a number"),
    ("Odd", "reward_word", "step", "the reward is 'much', not a number"),
    ("Odd", "reward_pair", "step", "the reward is [0., 0.], not a number"),
    ("Odd", "flag_none", "step", "truncated is None, not True or False"),
    ("Odd", "flag_word", "step", "truncated is 'no', not True or False"),
    ("Odd", "flag_pair", "step", "truncated is [0, 0], not True or False"),
    ("Odd", "result_four", "step", "not enough values to unpack"),
    ("Odd", "result_six", "step", "too many values to unpack"),
    ("Odd", "result_nothing", "step", "NoneType"),
    ("Odd", "alone", "reset", "reset"),
    ("OddSpace", "class", "step", "entry observation is 5, outside Discrete(5)"),
    ("OddSpace", "class_half", "step", "entry observation is 1.5, outside Discrete(5)"),
    ("OddSpace", "classes", "step", "entry observation is [2, 2], outside MultiDiscrete([2 3])"),
    ("OddSpace", "bits", "step", "entry observation is [0, 2], outside MultiBinary(2)"),
    ("OddSpace", "frame_layout", "step", "shape (8, 8, 3) and type uint8, not of Box(0, 255, (3, 8, 8)"),
    ("OddSpace", "frame_floats", "step", "type float64, not of Box(0, 255, (8, 8, 3), uint8)"),
    ("OddSpace", "frame_nan", "step", "entry observation has numbers that are not finite"),
    ("OddSpace", "entry", "step", "entry b is missing from the observation"),
    ("OddSpace", "text", "step", "entry words is None, not a text"),
]  # fmt: skip
FAIL_LATE = [
    ("Odd", "shows_raise", "late", "ValueError: no such thing"),
    ("Odd", "shows_raise", "late reset", "failed in the reset of episode"),
    ("Odd", "shows_two_parts", "late", "TwoPartError: here because of that"),
    ("Odd", "shows_exit", "late", "SystemExit: the simulator says good-bye"),
    ("Odd", "shows_ctrl_c", "late", "KeyboardInterrupt"),
    ("Odd", "shows_nan", "late", "step 5 of episode 3 of copy 1 of 2 (seed 0) with action"),
    ("Odd", "shows_minus_inf", "late", "entry observation is -inf at index 1"),
    ("Odd", "shows_none", "late", "entry observation is None"),
    ("Odd", "shows_long", "late", "the shape (3,)"),
    ("Odd", "reward_inf", "late", "the reward is inf"),
    ("Odd", "reward_none", "late", "the reward is None"),
    ("OddSpace", "class", "late", "step 5 of episode 3 of copy 1 of 2 (seed 0) with action"),
    ("OddSpace", "class_below", "late", "entry observation is 0, outside Discrete(5, start=1)"),
    ("OddSpace", "class_wrapped", "late", "entry observation is 256, outside Discrete(5)"),
    ("OddSpace", "entry", "late", "entry b is missing from the observation"),
    ("Masked", "", "late", "action_mask in info is [1, 1, 1, 1], not of 3 numbers"),
]
GO_ON = [
    ("Odd", "", "step", ""),
    ("Odd", "shows_row", "step", ""),
    ("Odd", "shows_list", "step", ""),
    ("Odd", "shows_doubles", "step", ""),
    ("Odd", "shows_integers", "step", ""),
    ("Odd", "shows_outside", "step", "entry observation is 7 at index 1, outside its space's -1 to 1"),
    ("Odd", "reward_one", "step", ""),
    ("Odd", "reward_float32", "step", ""),
    ("Odd", "reward_list", "step", ""),
    ("Odd", "flag_array", "step", ""),
    ("Odd", "flag_integer", "step", ""),
    ("Odd", "info_none", "step", ""),
    ("Odd", "info_list", "step", ""),
    ("Odd", "info_ragged", "step", ""),
    ("Odd", "info_odd_keys", "step", ""),
    ("Level", "", "step", ""),
    ("Odd", "ends_never", "step", ""),
    ("Odd", "ends_once", "step", ""),
    ("Odd", "ends_both", "step", ""),
    ("Odd", "close_raise", "step", "env.id=Odd-v0 cannot be closed: ValueError: no such thing"),
    ("Odd", "close_exit", "step", "env.id=Odd-v0 cannot be closed: SystemExit"),
    ("OddSpace", "class_float", "step", ""),
    ("OddSpace", "frame_bright", "step", "observation goes from 200 to 200, outside its space's 0 to 1"),
]  # fmt: skip


def options(name: str, fault: str, when: str) -> dict[str, str]:
    return {"fault": fault} | ({} if name == "OddSpace" and when == "step" else {"when": when})


@pytest.mark.parametrize(("name", "fault", "when", "words"), REFUSED)
def test_refused_before_training(name: str, fault: str, when: str, words: str) -> None:
    with pytest.raises(EnvError) as caught:
        check_env(env_config(name, **options(name, fault, when)))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"env.id={name}-v0") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "fault", "when", "words"), FAIL_LATE)
def test_fails_in_training_with_its_place(name: str, fault: str, when: str, words: str) -> None:
    config = env_config(name, **options(name, fault, when))
    check_env(config)
    with pytest.raises(EnvFailure) as caught, told_apart():
        play(config)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"env.id={name}-v0 failed in ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "fault", "when", "words"), GO_ON)
def test_goes_on(name: str, fault: str, when: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = env_config(name, **options(name, fault, when))
    check_env(config)
    play(config)
    said = capsys.readouterr().err.splitlines()
    assert [words in line for line in said] == [True] * bool(words)


def test_an_error_shows_the_users_own_line() -> None:
    line = r"with action [01]: ValueError: .*misbehaving\.py:\d+ in throw: raise error\)"
    with pytest.raises(EnvError, match=line):
        check_env(env_config("Odd", fault="shows_raise", when="step"))


@pytest.mark.parametrize(
    ("fault", "when", "words"),
    [
        ("shows_die", "late", r"step 5 of episode 3 of copy \d of 2 .*its process ended"),
        ("shows_killed", "late", "its process ended"),
        ("shows_two_parts", "late", "TwoPartError: here because of that"),
        ("reward_pair", "step", "the reward is"),
        ("info_unpicklable", "step", None),
        ("reward_one", "step", None),
        ("close_raise", "step", None),
    ],
)
def test_in_workers(fault: str, when: str, words: str | None) -> None:
    config = env_config("Odd", "async", fault=fault, when=when)
    if words is None:
        play(config, 12)
        return
    with pytest.raises(EnvFailure, match=words):
        play(config)


@pytest.mark.timeout(120)
def test_workers_compute_on_threads_where_the_run_did_before() -> None:
    torch.set_num_threads(2)
    try:
        torch.ones(500_000).exp().sum()  # starts the threads that a forked process would wait for
        envs = make_vector(env_config("Model", "async"), COPIES)
        envs.reset(seed=[0, 2])
        envs.step(np.eye(2, dtype=np.float32))
        envs.close()
    finally:
        torch.set_num_threads(1)


def test_signals_to_the_group_leave_workers_to_the_run() -> None:
    envs = make_vector(env_config("Odd", "async"), COPIES)
    processes = envs.envs.processes
    envs.reset(seed=[0, 2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for process in processes:
            os.kill(process.pid, number)
        envs.step(np.eye(2, dtype=np.float32))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # the run's own are as they were
    envs.close()
    assert [process.exitcode for process in processes] == [0, 0]


def test_workers_do_not_run_the_users_script(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"`, which registers its environment itself."""
    (tmp_path / "script.py").write_text(
        "import gymnasium, numpy as np\n"
        "from dataclasses import replace\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "from qdreamer.agents.cli.composition import load_config\n"
        "from qdreamer.envs.factory import make_vector\n"
        "class Mine(CartPoleEnv):\n    pass\n"
        "print('began', flush=True)\n"
        "gymnasium.register('Mine-v0', entry_point=Mine)\n"
        "config = replace(load_config([]).env, id='Mine-v0', vectorization='async')\n"
        "envs = make_vector(config, 2)\n"
        "envs.reset(seed=[0, 2])\n"
        "print(envs.step(np.eye(2, dtype=np.float32))[1])\n"
    )
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=120
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("began\n[1. 1.]\n", "", 0)


def test_the_process_belongs_to_the_run(tmp_path: Path) -> None:
    def process() -> list[Any]:
        switches = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
        return [Path.cwd(), np.geterr(), switches, signal.getsignal(signal.SIGTERM), sys.stdout]

    before = process()
    envs = make_vector(env_config("Meddler", folder=str(tmp_path)), COPIES)
    envs.reset(seed=[0, 2])
    for _ in range(3):
        assert process() == before
        envs.step(np.eye(2, dtype=np.float32))
    assert process() == before
    assert os.fspath(Path.cwd()) != os.fspath(tmp_path)
    envs.close()
    assert process() == before


@pytest.mark.parametrize("high", [np.array([0.1, np.pi]), np.array([2**31 - 1, 7], np.int64)])
def test_a_bound_that_float32_rounds_is_inside(high: Any) -> None:
    watch = Watch("o", (np.zeros_like(high), high))
    assert watch.fine(high.astype(np.float32)[None])
    assert not watch.fine(1.001 * high.astype(np.float32)[None])


def test_rewards_that_replay_cannot_hold_are_refused() -> None:
    assert guard.number(3e38) == 3e38
    for reward in (1e39, -1e39, float("nan"), float("inf")):
        with pytest.raises(WrongValueError, match="the reward is"):
            guard.number(reward)
