"""Exported policies play as the agent does: through torch.export's program, and through onnxruntime."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qdreamer import native
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.export import Exported, export
from qdreamer.agents.randomness import EVALUATION, make_generator
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.actions import ActionSpec, Classes, Numbers
from qdreamer.envs.entries import Image, Spec, Vector

SMALL = [
    "world_model.units=16", "world_model.deter=16", "world_model.hidden=16", "world_model.stoch=4",
    "world_model.classes=4", "world_model.image.depth=2",
]  # fmt: skip
AGENTS = {
    "gru": ["agent=classical"],
    "gru_attention": ["agent=hybrid", "sequence.window=8"],
    "transformer": ["agent=hybrid", "sequence=transformer", "sequence.window=8"],
}
SPACES: dict[str, tuple[dict[str, Spec], ActionSpec]] = {
    "vectors": ({"observation": Vector(5)}, ActionSpec((Classes(3),))),
    "images": ({"image": Image(16, 16, 3), "speed": Vector(2)}, ActionSpec((Numbers(2),))),
}
ROWS = 3
Play = Callable[[dict[str, NDArray[Any]]], list[NDArray[np.float32]]]


def make(make_config: Callable[..., Config], name: str, spaces: str, *words: str) -> Dreamer:
    """An agent whose weights are not those of its start: policies there are uniform."""
    torch.manual_seed(0)
    agent = make_dreamer(make_config(*AGENTS[name], *SMALL, *words), *SPACES[spaces])
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        agent.average_actor.load_state_dict(agent.actor.state_dict())
    return agent.eval()


def observations(agent: Dreamer, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {
        name: random.integers(0, 255, (ROWS, *spec.shape)).astype(np.uint8)
        if spec.dtype == np.uint8
        else random.normal(size=(ROWS, *spec.shape)).astype(np.float32)
        for name, spec in agent.observation.items()
    }


def by_torch(path: Path) -> Play:
    program = torch.export.load(path).module()

    def play(inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        others = {k: tensors.pop(k) for k in ("state", "is_first", "uniforms") if k in tensors}
        return [tensor.numpy() for tensor in program(observation=tensors, **others)]

    return play


def by_onnx(path: Path) -> Play:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options)
    return lambda inputs: session.run(None, inputs)


PLAYERS = {".pt2": by_torch, ".onnx": by_onnx}


# Every agent and kind of observation, in either format; the other six, ten seconds each, were run by hand.
_LONG = pytest.mark.long
CASES = [
    ("gru", "images", ".onnx"), ("gru_attention", "vectors", ".onnx"),
    ("gru_attention", "images", ".pt2"), ("transformer", "vectors", ".pt2"),
    pytest.param("gru", "vectors", ".pt2", marks=_LONG),
    pytest.param("transformer", "images", ".onnx", marks=_LONG),
]  # fmt: skip


def compare(agent: Dreamer, play: Play, size: int, steps: int, drawn: bool) -> None:
    """Assert that both act alike in episodes of random lengths, row by row."""
    random = np.random.default_rng(0)
    loop, generator = ActingLoop(agent, ROWS, 5, True, averaged=True), make_generator("cpu", EVALUATION, 5)
    state, first, own = np.zeros((ROWS, size), np.float32), np.ones(ROWS, np.bool_), []
    for _ in range(steps):
        seen = observations(agent, random)
        expected = loop.act(seen, first).action
        inputs = {**seen, "state": state, "is_first": first.astype(np.float32)}
        if drawn:
            noise = agent.world_model.rssm.noise(ROWS, 1, generator=generator)
            inputs["uniforms"] = noise.squeeze(1).numpy()
        action, state = play(inputs)
        np.testing.assert_allclose(action, expected, atol=1e-5)
        own.append(action)
        first = random.random(ROWS) < 0.03
    assert np.std(own, 0).max() > 1e-3  # it does more than one thing


@pytest.mark.slow
@pytest.mark.parametrize("steps", [200, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize(("name", "spaces", "suffix"), CASES)
def test_it_plays_as_the_agent(
    name: str, spaces: str, suffix: str, steps: int, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    agent, path = make(make_config, name, spaces), tmp_path / f"policy{suffix}"
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    made = export(agent, path)
    compare(agent, PLAYERS[suffix](path), made.inputs["state"][0], steps, drawn=True)


@pytest.mark.parametrize("kind", ["born", pytest.param("ffm", marks=_LONG)])
def test_memories_that_are_a_state(kind: str, make_config: Callable[..., Config], tmp_path: Path) -> None:
    agent = make(make_config, "gru_attention", "vectors", f"attention={kind}")
    made = export(agent, tmp_path / "policy.pt2")
    compare(agent, by_torch(made.path), made.inputs["state"][0], 100, drawn=True)


@pytest.fixture(scope="module")
def exported(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    agent = make(make_config, "gru_attention", "vectors")
    return export(agent, tmp_path_factory.mktemp("exported") / "policy.pt2")


def test_one_row_is_enough(exported: Exported) -> None:
    state = np.zeros((1, exported.inputs["state"][0]), np.float32)
    inputs = {"observation": np.ones((1, 5), np.float32), "uniforms": np.zeros((1, 4), np.float32)}
    action, state = by_torch(exported.path)(inputs | {"state": state, "is_first": np.ones(1, np.float32)})
    assert action.shape == (1, 3) and state[0, -3:].tolist() == action[0].tolist()


def test_nothing_passes_a_first_step(exported: Exported) -> None:
    play, random = by_torch(exported.path), np.random.default_rng(0)
    inputs = {
        "observation": random.normal(size=(ROWS, 5)).astype(np.float32),
        "is_first": np.array([1, 0, 1], np.float32), "uniforms": random.random((ROWS, 4), np.float32),
    }  # fmt: skip
    size = exported.inputs["state"][0]
    empty, full = np.zeros((ROWS, size), np.float32), random.normal(size=(ROWS, size)).astype(np.float32)
    (a, _), (b, _) = play(inputs | {"state": empty}), play(inputs | {"state": full})
    assert np.array_equal(a[[0, 2]], b[[0, 2]])


@pytest.mark.parametrize("name", ["gru_attention", "transformer", pytest.param("gru", marks=_LONG)])
def test_the_likeliest_classes(name: str, make_config: Callable[..., Config], tmp_path: Path) -> None:
    """No uniforms go in; the latents are the posterior's modes, and both returns are told."""
    agent = make(make_config, name, "vectors")
    played: list[Dreamer] = []

    def score(other: Dreamer, episodes: int) -> float:
        played.append(other)
        return float(len(played)) * episodes

    made = export(agent, tmp_path / "policy.pt2", "likeliest", score=score, episodes=2)
    assert (made.mean_return, made.agent_return) == (2.0, 4.0)
    assert "uniforms" not in made.inputs and played[1] is agent
    compare(played[0], by_torch(made.path), made.inputs["state"][0], 20, drawn=False)
    model = played[0].world_model
    embed, action, first = torch.randn(4, 6, model.encoder.width), torch.zeros(4, 6, 3), torch.ones(4, 6)
    found = model.rssm.observe(embed, action, first, model.rssm.initial(4), torch.rand(4, 6, 4))
    classes = found.stoch().unflatten(-1, (4, 4)).argmax(-1)
    assert torch.equal(classes, found.posterior.argmax(-1))


def test_what_the_file_says(make_config: Callable[..., Config], tmp_path: Path) -> None:
    agent = make(make_config, "gru", "images")
    made = export(agent, tmp_path / "policy.pt2", actions="2 numbers")
    extra = {"qdreamer": ""}
    program = torch.export.load(made.path, extra_files=extra)
    about = json.loads(extra["qdreamer"])
    assert about["inputs"]["image"] == ["uint8", 16, 16, 3] and about["outputs"]["action"] == "2 numbers"
    kinds = {n.target.namespace for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload)}
    assert kinds == {"aten"}


@pytest.mark.usefixtures("compiled")
def test_kernels_in_c_stay_outside(make_config: Callable[..., Config], tmp_path: Path) -> None:
    agent = make(make_config, "gru_attention", "vectors", "world_model.units=1024")
    native.use(True)
    made = export(agent, tmp_path / "policy.pt2")
    compare(agent, by_torch(made.path), made.inputs["state"][0], 20, drawn=True)


@pytest.mark.parametrize("kind", ["sampled", pytest.param("circuit", marks=_LONG)])
def test_what_cannot_be_exported(kind: str, make_config: Callable[..., Config], tmp_path: Path) -> None:
    agent = make(make_config, "gru_attention", "vectors", f"attention={kind}")
    with pytest.raises(ValueError, match="this agent cannot be exported"):
        export(agent, tmp_path / "policy.pt2")


def test_only_two_formats(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"export to \.onnx or \.pt2"):
        export(make(make_config, "gru", "vectors"), tmp_path / "policy.h5")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_onnx_without_its_packages_fails_before_anything_is_made(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    nothing: Any = None  # an agent that nobody may look at
    with pytest.raises(ValueError, match=r"^to write \.onnx: pip install 'qdreamer\[onnx\]'"):
        export(nothing, tmp_path / "policy.onnx")


@pytest.mark.parametrize(
    ("path", "episodes", "said"),
    [
        ("missing/policy.pt2", 0, r"missing/policy\.pt2 cannot be written: its folder"),
        ("policy.pt2", -1, "episodes=-1 must be a whole number of at least 0"),
        ("policy.pt2", 1.5, r"episodes=1\.5 must be"),
        ("policy.pt2", 2, "episodes=2 cannot be played without a score"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_traced(
    path: str, episodes: int, said: str, make_config: Callable[..., Config], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(ValueError, match=said):
        export(make(make_config, "gru", "vectors"), tmp_path / path, episodes=episodes)
