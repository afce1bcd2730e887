"""Forty environments from end to end: python -m benchmarks.environments --folder runs/environments.

Each learns for some thirty updates, is evaluated and filmed, and goes on from a checkpoint half-way.
Rows that are in the folder's rows.jsonl are not repeated; suites that are not installed are named.
MuJoCo's videos need MUJOCO_GL=egl where there is no screen.
"""

import argparse
import io
import json
import math
import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.training.training import Run
from qdreamer.configs.console import one_line
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.factory import EnvError
from qdreamer.envs.interface import summary

PRESETS = [
    *("CartPole", "Pendulum", "Blackjack", "Taxi", "FrozenLake", "CliffWalking"),
    *("LunarLander", "LunarLanderContinuous", "BipedalWalker", "CarRacing", "HalfCheetah", "Humanoid"),
    *("atari_pong", "atari_breakout", "minigrid", "minigrid_doorkey", "minigrid_memory"),
    *("minatar_asterix", "minatar_breakout", "minatar_freeway", "minatar_seaquest", "minatar_space_invaders"),
    *("popgym_repeat_previous", "popgym_repeat_first", "popgym_autoencode", "popgym_count_recall"),
    *("popgym_noisy_cartpole", "crafter", "dmc_cartpole_swingup", "dmc_walker_walk"),
    *("dmc_cartpole_swingup_pixels", "dmc_walker_walk_pixels"),
]
CUSTOM = ["NestedDict", "MultiBinary", "Int8", "Float64", "ChannelsFirst", "Cube", "Start", "Masked"]
ROWS = {preset: [f"env={preset}"] for preset in PRESETS} | {
    f"custom {name}": ["env=gym", f"env.id=benchmarks.custom_environments:{name}-v0"] for name in CUSTOM
}
PREFILL, ENVS, UPDATES = 32, 2, 32
MORE = {"env=Humanoid": 96}  # updates: 348 numbers, of which most begin far from their moments
SHORT = [
    *(f"env.num_envs={ENVS}", "env.vectorization=sync", f"train.prefill={PREFILL}", "replay.capacity=2000"),
    *("train.batch_size=4", "train.batch_length=8", "train.replay_ratio=16"),  # an update for each iteration
    *("world_model.warmup=5", "agent.imagination_horizon=5"),
    *("evaluation.every=1000000", "evaluation.episodes=2", "evaluation.max_steps=30"),
    *("evaluation.context=2", "evaluation.horizon=5", "logging.every=1", "logging.video_frames=20"),
    *("logging.pictures_every=1000000", "logging.video_every=1000000", "checkpoint.every=1000000"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where rows and runs are kept")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("overrides", nargs="*", help="settings for all, after --, as agent=hybrid")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "rows.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for name in arguments.only or ROWS:
        if any(row["name"] == name for row in done):
            continue
        row = {"name": name} | tried(
            arguments.folder / name.replace(" ", "_"), [*ROWS[name], *arguments.overrides]
        )
        print(json.dumps(row), file=sys.stderr, flush=True)
        if "missing" not in row:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        done.append(row)
    print(table(sorted(done, key=lambda row: list(ROWS).index(row["name"]))))


def tried(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Return a row, or why there is none."""
    begin = perf_counter()
    try:
        row = row_of(folder, overrides)
    except EnvError as error:
        return {"missing" if "pip install" in str(error) else "failed": one_line(error)}
    except ConfigError:
        raise
    except Exception as error:  # which row fails, and why, is what this script is for
        return {"failed": f"{type(error).__name__}: {one_line(error)}"}
    return row | {"seconds": perf_counter() - begin}


def row_of(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train twice, once with a break, and return what happened."""
    updates = MORE.get(overrides[0], UPDATES)
    steps = PREFILL + ENVS * updates
    whole = trained(folder / "whole", overrides, [steps])
    observer, losses = whole.observer, world_model_losses(folder / "whole", whole)
    assert observer is not None
    assert observer.last_evaluation is not None
    broken = trained(folder / "broken", overrides, [PREFILL + ENVS * (updates // 2), steps])
    problem = observer.reporter.problems.get("videos")
    quarter = len(losses) // 4
    words = summary(whole.agent.observation, whole.agent.action).split("\n")
    row = {
        "id": whole.config.env.id,
        "observation": words[0].removeprefix("observation: "),
        "action": words[1].removeprefix("action: "),
        "updates": whole.learner.updates,
        "finite": all(map(math.isfinite, losses)),
        "first": float(np.mean(losses[:quarter])),
        "last": float(np.mean(losses[-quarter:])),
        "evaluation": observer.last_evaluation[0],
        "video": "yes" if list((folder / "whole" / "videos").glob(f"step_{steps}.gif")) else str(problem),
        "resumed": same(state(whole), state(broken)),
        "deterministic": broken.same_episodes,
    }
    whole.close()
    broken.close()
    return row


def trained(directory: Path, overrides: list[str], sessions: list[int]) -> Run:
    """Return a run after sessions that end at these steps."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for session, steps in enumerate(sessions):
        # What the row says wins over what makes it short, and the length over both.
        given = {text.partition("=")[0] for text in overrides}
        short = [text for text in SHORT if text.partition("=")[0] not in given]
        run = Run(
            load_config(
                ["agent=classical"] * ("agent" not in given) + overrides + short + [f"steps={steps}"]
            ),
            directory,
        )
        progress = Progress(steps, run.step, run.learner.updates, io.StringIO())
        run.train(progress)
        progress.close()
        if session < len(sessions) - 1:
            run.close()
    return run


def world_model_losses(directory: Path, run: Run) -> list[float]:
    """Return the world model's total loss of each update."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    scales = run.agent.world_model.loss_scales
    return [
        sum(scale * line[f"loss/{name}"] for name, scale in scales.items())
        for line in lines
        if "loss/reward" in line
    ]


def state(run: Run) -> Any:
    """Return all that the next step depends on."""
    return run.agent.state_dict(), run.learner.optimizer.state_dict(), run.collector.state_dict()


def same(one: Any, other: Any) -> bool:
    """Tell whether two nested states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    head = (
        "environment",
        "observation",
        "action",
        "updates",
        "world-model loss",
        "return",
        "video",
        "resumed",
        "s",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        reason = row.get("failed") or row.get("missing")
        if reason is not None:
            lines.append(f"| {row['name']} | {reason} |{' |' * (len(head) - 2)}")
            continue
        exact = "bit for bit" if row["resumed"] else "no" if row["deterministic"] else "not deterministic"
        loss = f"{row['first']:.2f} → {row['last']:.2f}" + ("" if row["finite"] else ", not finite")
        video = (
            "yes"
            if row["video"] == "yes"
            else "renders nothing"
            if "render" in row["video"]
            else row["video"]
        )
        cells = (
            row["observation"],
            row["action"],
            row["updates"],
            loss,
            f"{row['evaluation']:.3g}",
            video,
            exact,
        )
        lines.append(f"| {row['name']} | {' | '.join(map(str, cells))} | {row['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
