"""Every key of the schema is changed in a run that reaches it: the run changes, or the command is refused.

`python -m tests.every_key [agent …]` goes through all of them, `agents/cli/test_every_key.py` through
some. A run is some updates with a full buffer, searches, evaluations and a checkpoint; its fingerprint are
losses, draws, outputs and the names of its files.
"""

import dataclasses
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gymnasium
import numpy as np
from hydra.core.override_parser.types import Override
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qdreamer.agents.cli.composition import compose_all, typed
from qdreamer.agents.cli.effect import unread
from qdreamer.agents.cli.overrides import parse
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.training import Run
from qdreamer.configs.recording import leaves
from qdreamer.configs.registry import Registry
from qdreamer.configs.schema import ConfigError, show

SMALL = [
    *("steps=72", "train.prefill=40", "train.batch_size=4", "train.batch_length=8", "train.replay_ratio=8"),
    *("replay.capacity=50", "agent.imagination_starts=4", "agent.imagination_horizon=3"),
    *("world_model.units=16", "world_model.bins=31", "evaluation.every=24", "evaluation.episodes=2"),
    *("evaluation.max_steps=30", "evaluation.horizon=5", "evaluation.context=3", "logging.every=16"),
    *("logging.writers=[jsonl]", "checkpoint.every=36"),
]
SEARCHES = ["optimizer.every=3", "optimizer.num_qubits=4"]
AGENTS = {
    "classical": ["agent=classical"],
    "hybrid": ["agent=hybrid_with_optimizer", *SEARCHES, "sequence.window=12"],
    "hybrid_transformer": ["agent=hybrid_with_optimizer", "sequence=transformer", *SEARCHES],
}
# Where keys count that the agents above refuse.
_CIRCUITS = [
    *("agent=hybrid_with_optimizer", *SEARCHES, "replay.wait=true", "optimizer.wait=true"),
    *("replay.shots=64", "replay.qubits=3", "replay.reuse=0.1", "quantum.shots=64"),
]
_IMAGES = ["agent=classical", "env=gym", "env.id=EveryKeyImages-v0"]
CONTEXTS = {
    "numbers": ["agent=classical", "env=Pendulum"],
    "images": _IMAGES,
    "redundancy": [*_IMAGES, "world_model.image.objective=redundancy"],
    "curriculum": ["agent=hybrid", "attention.curriculum.length=4"],
    "born": ["agent=hybrid", "attention=born"],
    "ffm": ["agent=hybrid", "attention=ffm"],
    "sampled": ["agent=hybrid", "attention=sampled"],
    "adaptive": ["agent=hybrid", "attention=sampled", "attention.strategy=adaptive"],
    "prioritized": ["agent=classical", "replay=prioritized"],
    "subsets": ["agent=classical", "replay=prioritized", "replay.diverse=qubo"],
    "curious": ["agent=classical", "replay=curious"],
    "boltzmann": ["agent=classical", "replay=prioritized", "replay.transform=boltzmann"],
    "rotation": [
        *("agent=classical", "replay=prioritized", "replay.transform=rotation", "replay.signal=td"),
        *("replay.prepare=[0.03,1]", "replay.depreciate=[0.3,1]"),  # by default they set in after 500 updates
    ],
    "circuits": [*_CIRCUITS, "quantum=aer"],
    "noisy": [*_CIRCUITS, "quantum=aer_noisy", "quantum.device=null", "quantum.noise.t1=20"],
    "fake": [*_CIRCUITS, "quantum=ibm", "quantum.device=FakeManilaV2"],
    "diverse": ["agent=classical", "replay=prioritized", "replay.diverse=dpp"],
    "steered": [
        *("agent=hybrid_with_optimizer", "optimizer.every=1", "optimizer.num_qubits=4"),
        *("optimizer.steer=1", "optimizer.steer_bound=1.45", "optimizer.warmup=1"),  # waited for
    ],
    "pictures": ["agent=classical", "logging.writers=[jsonl,tensorboard]"],
    "weights": ["agent=classical", "weights=quantum_train", "weights.mapping=[4]", "weights.activation=relu"],
    "projection": ["agent=classical", "weights=projection"],
    "heads": ["agent=classical", "heads=quantum", "heads.qubits=3"],
    "heads_control": ["agent=classical", "heads=quantum", "heads.path=mlp"],
}  # fmt: skip
# Read, and yet no different losses, draws or outputs: why.
EXCEPTIONS = {
    "runs": "where runs are kept",
    "resume": "which run goes on",
    "device": "where it is computed; cuda is not everywhere",
    "threads": "how it is computed; sums may be rounded otherwise",
    "kernels": "how it is computed; sums may be rounded otherwise",
    "checkpoint.every": "how much a kill loses; a run that is not killed ends with the same",
    "env.vectorization": "in which processes environments live; they show the same",
    "env.solved": "a line that the summary and comparisons mark",
    "env.image_size": "only images larger than 96 are resized, which the environment alone knows",
    "env.entries": "keys are entries of the observation: refused where there is no such one",
    "env.kwargs": "keys are the environment's: refused where there is no such one",
    "world_model.entry_scales": "keys are entries of the observation: refused where there is no such one",
    "replay.initial": "a file: what it changes is tests/agents/training/test_initial_data.py's business",
    "train.collect": "refused without replay.initial",
    "world_model.checkpointing": "how it is computed: in less memory and more time",
    "optimizer.groups": "keys are parts of the agent: refused where there is no such one",
    "logging.video_frames": "without videos in training it is evaluate.py that reads it",
    "replay.mapped": "where observations are kept: in a file of the run instead of in memory",
    "quantum.dry_run": "true: nothing is run at all",
    "quantum.budget_shots": "a limit: without effect until it is reached",
    "quantum.budget_seconds": "a limit: without effect until it is reached",
    "quantum.timeout": "a limit: without effect until it is reached",
    "quantum.retries": "after jobs that failed, and none does here",
    "quantum.method": "of Aer: how a circuit is simulated; outcomes have the same distribution",
    "optimizer.patience": "a limit: without effect until a result comes later",
}
VALUES = {  # where a change of a kind does not do
    "env.hide": ["[1]"], "env.wrappers": ["[tests.every_key:Halved]"], "env.id": ["Acrobot-v1"],
    "env.max_episode_steps": ["7"], "optimizer.levels": ["[0.4,1.6]"], "world_model.classes": ["12"],
    "agent.return_percentiles": ["[10,90]"], "env.steps": ["64"], "agent.return_limit": ["0.001"],
    "optimizer.agc": ["1e-4"], "optimizer.agc_pmin": ["10"], "optimizer.eps": ["0.1"],
    "sequence.blocks": ["2"], "world_model.blocks": ["2"], "replay.capacity": ["41"],
    "evaluation.max_steps": ["9"],
    "attention.curriculum.start": ["3"], "attention.curriculum.length": ["9"], "optimizer.epsilon": ["0.3"],
    "quantum.device": ["FakeBogotaV2"], "logging.writers": ["[jsonl,csv]"],
    "logging.pictures_every": ["0"], "logging.video_every": ["0"], "world_model.free_nats": ["3"],
    "weights.modules": ["[critic]"], "heads.modules": ["[critic]"],
    "weights.mapping": ["[5]"], "replay.reuse": ["0.01"], "quantum.min_fidelity": ["0.99"],
    "optimizer.fresh": ["3"], "optimizer.slice": ["2"], "optimizer.differences": ["1"],
    "replay.qubo.keep": ["2"],
    "replay.beta": ["[0.5,0.5]"], "replay.prepare": ["[0.5,1]"], "replay.depreciate": ["[0.1,3]"],
}  # fmt: skip


class Images(gymnasium.Env):
    """Noise of 16 × 16 pixels."""

    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._look(), float(action), bool(self.np_random.random() < 0.1), False, {}

    def _look(self) -> Any:
        return self.np_random.integers(0, 256, (16, 16, 3), np.uint8)


class Halved(gymnasium.RewardWrapper):
    """Half of every reward."""

    def reward(self, reward: Any) -> Any:
        return reward / 2


gymnasium.register("EveryKeyImages-v0", entry_point=Images)


def composed(words: list[str]) -> tuple[list[Override], Any, Config]:
    """Overrides of a command line, later words in place of earlier ones, and what they compose to."""
    last = {str(override.key_or_group): override for override in map(parse, words)}
    overrides = list(last.values())
    raw = compose_all(overrides)
    return overrides, raw, typed(Config, raw)


def fingerprint(words: list[str]) -> str:
    """Hash what the run of a command line computes and leaves."""
    config = composed(words)[2]
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with closing(Run(config, directory)) as run:
            run.train(Progress(config.steps, 0, 0, io.StringIO()))
            for name, tensor in run.agent.state_dict().items():
                digest.update(name.encode() + np.asarray(tensor).tobytes())
            state = {"replay": run.replay.state_dict(), "collector": run.collector.state_dict()}
            digest.update(repr(_without_arrays(state, digest)).encode())
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        for line in lines:
            digest.update(
                repr([pair for pair in json.loads(line).items() if not pair[0].startswith("time/")]).encode()
            )
        digest.update(repr(sorted(_name(path) for path in directory.rglob("*"))).encode())
    return digest.hexdigest()


def _name(path: Path) -> str:
    """A file's name, with the size of pictures; of events, whose names hold the time, what they show."""
    if path.name.startswith("events."):
        return f"events {sorted(EventAccumulator(str(path)).Reload().Tags()['images'])}"
    return f"{path.name} {path.stat().st_size}" if path.suffix == ".gif" else path.name


def _without_arrays(value: Any, digest: Any) -> Any:
    if isinstance(value, dict):
        timeless = {key: inner for key, inner in value.items() if key != "seconds"}  # of jobs
        return {key: _without_arrays(inner, digest) for key, inner in timeless.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(inner, digest) for inner in value]
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        digest.update(value.tobytes())
        return value.shape
    return value


def values(config: Config, key: str) -> Iterator[str]:
    """Other values for a key, nearest first; not all of them need be valid."""
    if key in VALUES:
        yield from VALUES[key]
        return
    *sections, last = key.split(".")
    holder: Any = config
    for section in sections:
        holder = holder[section] if isinstance(holder, dict) else getattr(holder, section)
    value = holder[last] if isinstance(holder, dict) else getattr(holder, last)
    if dataclasses.is_dataclass(holder):
        hint = get_type_hints(type(holder), include_extras=True)[last]
        plain = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Registry)]
        words = get_args(plain) if get_origin(plain) is Literal else marks[0].names() if marks else ()
        yield from (str(word) for word in words if word != value)
    if isinstance(value, bool):
        yield show(not value)
    elif isinstance(value, int):
        yield from (str(value + 1), str(value * 2), str(max(value - 1, 0)), str(value // 2))
    elif isinstance(value, float):
        yield from (show(value * 0.7), show(value + 0.1), show(value / 2 + 0.1))
    elif isinstance(value, tuple) and value:
        yield show([value[0] * 0.7, *value[1:]])
    elif value is None:
        yield from ("5", "0.5")
    elif key == "optimizer.blocks":
        yield "balanced"
    elif isinstance(value, str):
        yield from ("model", "td", "reward", "linear", "cosine", "ramp", "fixed")


def keys(config: Config) -> list[str]:
    """All leaves but the names of parts, which groups choose."""
    return [key for key in leaves(config) if not key.endswith(".name") and key not in EXCEPTIONS]


def verdict(base: list[str], before: str, key: str) -> str:
    """What becomes of a command line when a key is changed: changed, refused, or silent; else untried."""
    config, refused = composed(base)[2], False
    now = show(leaves(config)[key])
    for value in (value for value in values(config, key) if value != now):
        word = f"{key}={value}"
        words = [other for other in base if not other.startswith(f"{key}=")] + [word]
        with suppress(ConfigError, ValueError, OSError):
            overrides, raw, changed = composed(words)
            if any(override.key_or_group == key for override in unread(overrides, raw, changed)):
                return "refused"
            return "changed" if fingerprint(words) != before else f"silent: {word}"
        refused = True  # by the schema, or by a part
    return "refused" if refused else "untried"


def check(name: str, only: set[str] | None = None) -> dict[str, str]:
    """Verdicts on the keys of an agent or a context, or on some of them."""
    overrides, raw, config = composed([*SMALL, *(AGENTS | CONTEXTS)[name]])
    useless = unread(overrides, raw, config)
    base = [str(override.input_line) for override in overrides if override not in useless]
    before = fingerprint(base)
    assert fingerprint(base) == before, "the same run comes out otherwise"
    wanted = [key for key in keys(composed(base)[2]) if only is None or key in only]
    return {key: verdict(base, before, key) for key in wanted}


def main(names: list[str]) -> int:
    """Print what is silent, and every key that no run reached; return how many are silent."""
    reached: dict[str, str] = {}
    silent = 0
    for name in names or [*AGENTS, *CONTEXTS]:
        known = set(keys(composed([*SMALL, *(AGENTS | CONTEXTS)[name]])[2]))
        seen = {key for key, said in reached.items() if said == "changed"}
        found = check(name, known if name in AGENTS else known - seen)
        for key, said in found.items():
            silent += said.startswith("silent")
            if said not in ("changed", "refused"):
                print(f"{name}: {key}: {said}", flush=True)
            if reached.get(key) != "changed":
                reached[key] = said
        counts = {word: list(found.values()).count(word) for word in ("changed", "refused")}
        print(f"{name}: {len(found)} keys, {counts}", flush=True)
    never = sorted(key for key, said in reached.items() if said != "changed")
    print(f"{len(reached)} keys, {silent} silent; {len(never)} changed no run: {', '.join(never)}")
    return silent


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
