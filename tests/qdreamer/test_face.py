"""`import qdreamer`: training, loading, playing and dreaming from Python."""

import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import qdreamer
from qdreamer.agents.cli.functions import _makes
from qdreamer.agents.interaction.evaluation import Evaluator
from qdreamer.agents.randomness import EVALUATION, make_generator
from qdreamer.agents.runs.run_directory import read_config
from qdreamer.analysis.run_form import CompareError
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.seeds import evaluation_seed

SMALL = [
    "world_model.units=16", "world_model.hidden=16", "world_model.stoch=4",
    "world_model.classes=4", "train.batch_size=4", "train.batch_length=8", "train.replay_ratio=16",
    "train.prefill=64", "evaluation.every=100", "evaluation.episodes=3", "evaluation.horizon=5",
    "logging.writers=[jsonl]",
]  # fmt: skip


class Nested(gymnasium.Env[Any, Any]):
    """Shows a dictionary, takes two choices and a number; episodes of 20 steps."""

    observation_space = spaces.Dict(
        {"where": spaces.Box(-1, 1, (2,), np.float64), "what": spaces.Tuple([spaces.Discrete(3, start=5)])}
    )
    action_space = spaces.Dict({"a": spaces.MultiDiscrete([2, 3]), "b": spaces.Box(0, 4, (1,))})

    def _show(self) -> dict[str, Any]:
        return {"where": self.np_random.uniform(-1, 1, 2), "what": (5 + int(self.np_random.integers(3)),)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self._steps += 1
        return self._show(), float(action["b"][0]), False, self._steps == 20, {}


@pytest.fixture(scope="module", params=["classical", "hybrid"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> qdreamer.TrainedRun:
    runs = tmp_path_factory.mktemp("runs")
    return qdreamer.train(*SMALL, env="CartPole", agent=request.param, steps=200, runs=str(runs))


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> qdreamer.Player:
    runs = tmp_path_factory.mktemp("nested")
    return qdreamer.train(*SMALL, env=Nested, agent="hybrid", steps=150, runs=str(runs)).load()


def test_it_plays_what_evaluate_plays(run: qdreamer.TrainedRun) -> None:
    player, config = run.load(), read_config(run.directory)
    evaluator = Evaluator(config.env, 4, player.seed, deterministic=True)
    expected = [episode.score for episode in evaluator.run(player.dreamer)]
    evaluator.close()
    seeds = [evaluation_seed(player.seed, i) for i in range(4)]
    raw = [gymnasium.make("CartPole-v1") for _ in seeds]
    observation = np.stack([env.reset(seed=seed)[0] for env, seed in zip(raw, seeds, strict=True)])
    scores, running, state = np.zeros(4), np.ones(4, bool), None
    while running.any():
        action, state = player.act(observation, state)
        for i in np.flatnonzero(running):
            observation[i], reward, terminal, truncated, _ = raw[i].step(action[i])
            scores[i] += reward
            running[i] = not (terminal or truncated)
    assert scores.tolist() == expected


def test_one_and_several_observations_of_any_type(run: qdreamer.TrainedRun) -> None:
    player = run.load()
    observation = np.array([0.01, -0.02, 0.03, 0.04], np.float32)
    action, state = player.act(observation)
    assert action in (0, 1) and np.ndim(action) == 0
    before = copy.deepcopy(state.carry.stoch)
    again, later = player.act(torch.tensor(observation, dtype=torch.float64), state)
    assert later is not state and torch.equal(state.carry.stoch, before)
    assert player.act(observation, state)[0] == again  # the same state, the same answer
    actions, both = player.act([observation.tolist()] * 2)
    assert actions.shape == (2,) and both.count == 2
    with pytest.raises(ValueError, match="1 observations, and the state is of 2"):
        player.act(observation, both)
    with pytest.raises(ValueError, match=r"shape \(3,\) is neither one of \(4,\) nor several"):
        player.act(np.zeros(3))


def test_a_row_that_begins_anew_forgets(run: qdreamer.TrainedRun) -> None:
    player = run.load()
    rows = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    state = None
    for row in rows[:2]:
        _, state = player.act(row, state)
    _, reset = player.act(rows[2], state, is_first=[True, False])
    _, fresh = player.act(rows[2], state, is_first=True)
    _, on = player.act(rows[2], state)
    assert torch.equal(reset.features[0], fresh.features[0])
    assert torch.equal(reset.features[1], on.features[1])
    assert not torch.equal(reset.features[0], on.features[0])


def test_dictionaries_go_in_and_out(nested: qdreamer.Player) -> None:
    env = Nested()
    observation, _ = env.reset(seed=0)
    state = None
    for _ in range(5):
        action, state = nested.act(observation, state)
        observation, *_ = env.step(action)  # asserts that the action is one
    several = {"where": np.zeros((3, 2)), "what": (np.array([5, 6, 7]),)}
    actions, _ = nested.act(several)
    assert actions["a"].shape == (3, 2) and actions["b"].shape == (3, 1)
    with pytest.raises(ValueError, match="do not agree"):
        nested.act({"where": np.zeros((3, 2)), "what": (5,)})


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"where": np.zeros(2)}, "the observation lacks what: give all of w"),
        (np.zeros(3), "not a dictionary of w"),
        ({"where": [np.nan, 0.0], "what": (5,)}, "entry where is nan at index 0, which is not finite: row 0"),
        ({"where": [[0.0, 0.0], [0.0, np.inf]], "what": ([5, 6],)}, "where is inf at index 1, .* row 1"),
        ({"where": {"x": 1}, "what": (5,)}, "entry where is .*, not of Box"),
        ({"where": [[0.0], [0.0, 1.0]], "what": (5,)}, "entry where is .*, not of Box"),
        ({"where": np.zeros(3), "what": (5,)}, r"entry where of shape \(3,\) is neither"),
        ({"where": np.zeros(2), "what": 5}, "entry what is 5, not a tuple of 1"),
        ({"where": np.zeros(2), "what": (np.nan,)}, "entry what/0 has numbers that are not finite"),
        ({"where": np.zeros(2), "what": (9,)}, "entry what/0 is .*9.*, outside Discrete"),
    ],
)
def test_what_is_no_observation(nested: qdreamer.Player, observation: Any, said: str) -> None:
    for call in (nested.act, nested.imagine):
        with pytest.raises(ValueError, match=said) as found:
            call(observation)
        assert "\n" not in str(found.value)


def test_what_is_no_state_no_dream_and_no_action(run: qdreamer.TrainedRun) -> None:
    player = run.load()
    observation = np.zeros((2, 4))
    _, state = player.act(observation)
    with pytest.raises(ValueError, match="observation is nan at index 3, which is not finite"):
        player.act([0.0, 0.0, 0.0, np.nan])
    with pytest.raises(ValueError, match=r"the observation is .*, not of Box"):
        player.act({"a": 1})
    with pytest.raises(ValueError, match="the state is 'no', not what"):
        player.act(observation, "no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is_first has the shape \(3,\), not \(\) or \(2,\)"):
        player.act(observation, state, is_first=[True] * 3)
    with pytest.raises(ValueError, match=r"info is .*, not a dictionary for each of 2"):
        player.act(observation, state, info=[{}])
    for horizon in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"horizon={horizon} must be a whole number of at least 1"):
            player.imagine(state, horizon=horizon)  # type: ignore[arg-type]
    for action in (2, -1, 0.5):
        with pytest.raises(ValueError, match=rf"actions hold {action:g}, outside Discrete\(2\)"):
            player.imagine(state, actions=np.full((3, 2), action))
    with pytest.raises(ValueError, match="must be finite numbers"):
        player.imagine(state, actions=np.full((3, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"actions \(0, 2, 2\) must be \(H, 2, 2\)"):
        player.imagine(state, actions=np.zeros((0, 2, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("run", ["classical", pytest.param("hybrid", marks=pytest.mark.long)], indirect=True)
def test_an_exported_policy_is_judged_where_that_was_asked_for(
    run: qdreamer.TrainedRun, tmp_path: Path
) -> None:
    player = run.load()
    made = player.export(tmp_path / "drawn.pt2", episodes=2)
    assert made.mean_return is not None and made.mean_return == made.agent_return
    assert player.export(tmp_path / "drawn.pt2").mean_return is None
    fixed = player.export(tmp_path / "fixed.pt2", "likeliest", episodes=1)
    assert fixed.mean_return is not None and fixed.agent_return is not None


def test_compare_says_which_setting_is_wrong(run: qdreamer.TrainedRun) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"primary": "foo"}, "^primary=foo is not one of steps, minutes, area, final"),
        ({"threshold": "a"}, "^threshold=a must be a finite number"),
        ({"threshold": float("nan")}, "^threshold=nan must be a finite number"),
        ({"margin": -1.0}, "^margin=-1.0 must be at least 0"),
        ({"primry": "area"}, "^unknown setting primry .did you mean primary.*; settings are baseline, pr"),
    ]
    for settings, said in wrong:
        with pytest.raises(CompareError, match=said):
            qdreamer.compare(run.directory.parents[1], **settings)


def test_dreams(run: qdreamer.TrainedRun, nested: qdreamer.Player) -> None:
    player = run.load()
    _, state = player.act(np.zeros((2, 4), np.float32))
    dream = player.imagine(state, horizon=6, seed=1)
    assert dream.observations["observation"].shape == (6, 2, 4)
    assert dream.actions.shape == (6, 2, 2)
    assert dream.rewards.shape == dream.values.shape == dream.continuations.shape == (6, 2)
    assert dream.continuations.min() >= 0 and dream.continuations.max() <= 1
    again = player.imagine(state, horizon=6, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(dream[1:], again[1:], strict=True))
    classes = dream.actions.argmax(-1)
    same = player.imagine(state, actions=classes, seed=1)
    assert np.array_equal(same.actions, dream.actions)
    with pytest.raises(ValueError, match=r"must be \(H, 2, 2\): one of 2"):
        player.imagine(state, actions=np.zeros((6, 3, 2)))
    found = nested.imagine({"where": np.zeros(2), "what": (5,)}, horizon=3)
    assert found.observations["where"].shape == (3, 1, 2)


def test_first_prediction_is_the_priors(run: qdreamer.TrainedRun) -> None:
    """One step dreamt equals the world model's own step, decoded."""
    player = run.load()
    _, state = player.act(np.zeros(4, np.float32))
    action = torch.eye(2)[[1]]
    dream = player.imagine(state, actions=action.unsqueeze(0), seed=3)
    model = player.dreamer.world_model
    noise = model.rssm.noise(1, generator=make_generator(torch.device("cpu"), EVALUATION, 3))
    with torch.no_grad():
        features, _ = model.rssm.imagine(action, state.carry, noise)
        expected = model.predict(features)["observation"]
    assert np.array_equal(dream.observations["observation"][0], expected.numpy())


def test_qubo() -> None:
    quadratic = np.array([[-1.0, 2.0, 0.0], [0.0, -1.0, 2.0], [0.0, 0.0, -1.5]])
    found = qdreamer.solve_qubo(quadratic)
    exact = qdreamer.solve_qubo(quadratic, solver="exact")
    assert found.bits.tolist() == exact.bits.tolist() == [1, 0, 1]
    assert found.energy == pytest.approx(-2.5)
    with pytest.raises(ValueError, match="did you mean qaoa"):
        qdreamer.solve_qubo(quadratic, solver="qoaa")
    for name in ("solver", "backend"):
        with pytest.raises(ConfigError, match=f"^{name}=foo is not one of .*a.*, "):
            qdreamer.solve_qubo(quadratic, **{name: "foo"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^unknown key devcie .did you mean device"):
        qdreamer.solve_qubo(quadratic, devcie="x")


def test_the_same_call_goes_on(run: qdreamer.TrainedRun) -> None:
    assert run.record().returns.shape == (2,)
    agent = "hybrid" if "hybrid" in str(run.directory) else "classical"
    runs = str(run.directory.parents[2])
    again = qdreamer.train(*SMALL, env="CartPole", agent=agent, steps=200, runs=runs)
    assert again == run


@pytest.mark.processes
def test_the_import_is_quick() -> None:
    code = "import time; t = time.process_time(); import qdreamer; print(time.process_time() - t)"
    root = Path(__file__).parents[2]
    begin = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert float(out.stdout) < 0.3, time.monotonic() - begin


def test_every_name_is_there() -> None:
    for name in qdreamer.__all__:
        assert getattr(qdreamer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qdreamer.nothing  # noqa: B018


def test_the_info_of_a_vector_environment(tmp_path: Path) -> None:
    player = qdreamer.train(
        *SMALL, "env.id=Taxi-v4", env="gym", agent="classical", steps=100, runs=str(tmp_path)
    ).load()
    envs = gymnasium.make_vec("Taxi-v4", 3, vectorization_mode="sync")
    observation, info = envs.reset(seed=0)
    state = None
    for _ in range(5):
        actions, state = player.act(observation, state, info=info)
        assert all(info["action_mask"][i][action] for i, action in enumerate(actions))
        observation, _, _, _, info = envs.step(actions)
    envs.close()


def test_callables_need_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a name of its own, not lambda"):
        qdreamer.train(env=lambda: Nested(), runs=str(tmp_path))
    other = type("Other", (Nested,), {})
    gymnasium.register("Other-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    try:
        with pytest.raises(ValueError, match="Other-v0 is registered already, for something else"):
            qdreamer.train(env=other, runs=str(tmp_path))
    finally:
        del gymnasium.registry["Other-v0"]
    assert _makes(EnvSpec("Nested-v0", f"{__name__}:Nested"), Nested)
    with pytest.raises(ValueError, match="takes settings alone"):
        qdreamer.train("--repair", runs=str(tmp_path))
