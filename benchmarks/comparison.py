"""Time and memory of a comparison: python -m benchmarks.comparison (200 synthetic runs by default).

Runs are made up (learning curves that rise at a random step), with logs of the size that real runs of
CartPole have, and compare.py runs on them in a process of its own.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import yaml

from qdreamer.agents.cli.composition import load_config

ROOT = Path(__file__).parent.parent
AGENTS = {  # directory: what train.py was told, and the median step; `hybrid` here has all three parts
    "classical": ([], 3300),
    "classical+replay=quantum": (["replay=quantum"], 3200),
    "classical+optimizer=hybrid": (["optimizer=hybrid"], 3300),
    "classical+sequence=gru_attention": (["sequence=gru_attention"], 3000),
    "classical+world_model.units=72": (["world_model.units=72"], 3200),
    "hybrid": (["sequence=gru_attention", "replay=quantum", "optimizer=hybrid"], 2300),
    "hybrid+sequence=gru": (["replay=quantum", "optimizer=hybrid"], 3100),
    "hybrid+replay=uniform": (["sequence=gru_attention", "optimizer=hybrid"], 2500),
    "hybrid+optimizer=laprop": (["sequence=gru_attention", "replay=quantum"], 2350),
    "hybrid+attention=softmax": (
        ["sequence=gru_attention", "attention=softmax", "replay=quantum", "optimizer=hybrid"], 2400,
    ),
    "hybrid+replay=prioritized": (["sequence=gru_attention", "replay=prioritized", "optimizer=hybrid"], 2500),
    "hybrid+optimizer.solver=random": (
        ["sequence=gru_attention", "replay=quantum", "optimizer=hybrid", "optimizer.solver=random"], 2450,
    ),
    "hybrid+optimizer.solver=exact": (
        ["sequence=gru_attention", "replay=quantum", "optimizer=hybrid", "optimizer.solver=exact"], 2300,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for the runs and the report (default: removed)")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (a.keep or Path(temporary)) / "CartPole"
        write_runs(folder, -(-a.runs // len(AGENTS)), a.runs)
        size = sum(path.stat().st_size for path in folder.rglob("*.jsonl"))
        begin = perf_counter()
        subprocess.run([sys.executable, str(ROOT / "compare.py"), str(folder)], check=True)
        seconds = perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{usage.ru_utime + usage.ru_stime:.1f} s of processor time")
    print(f"{a.runs} runs, {size / 2**20:.1f} MiB of metrics: {seconds:.1f} s, peak {peak:.0f} MiB")


def write_runs(folder: Path, seeds: int, limit: int | None = None, agents: dict[str, Any] = AGENTS) -> None:
    """At most `limit` run directories: `seeds` of each agent."""
    random, written = np.random.default_rng(0), 0
    for agent, (overrides, median) in agents.items():
        settings = load_config(["env=CartPole", "steps=6000", "agent=classical", *overrides])
        config = json.loads(json.dumps(dataclasses.asdict(settings)))
        config["agent"]["name"] = agent.split("+")[0]
        for seed in range(seeds):
            if written == limit:
                return
            reach = float(np.clip(median * random.lognormal(0.0, 0.3), 600, 9000))
            write_run(folder / agent / f"seed_{seed}", {**config, "seed": seed}, reach, random)
            written += 1


def write_run(directory: Path, config: dict[str, Any], reach: float, random: np.random.Generator) -> None:
    """A run whose return rises to 500 around step `reach`."""
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    steps, every, seconds = config["steps"], config["evaluation"]["every"], 90.0 + 20.0 * random.random()
    lines: list[dict[str, Any]] = []
    for step in range(25, steps + 1, 25):
        lines.append({"step": step, "train/return": 25.0, "train/length": 25})
        at = seconds * step / steps
        if step % config["logging"]["every"] == 0:
            values = {f"loss/{i}": float(random.random()) for i in range(40)}
            lines.append({"step": step, **values, "updates": step // 2, "time/seconds": at})
        if step % every == 0:
            rise = 1.0 / (1.0 + np.exp(-(step - reach + 250.0) / 150.0))
            score = float(np.clip(20.0 + 485.0 * rise + random.normal(0.0, 4.0), 9.0, 500.0))
            lines.append({"step": step, "eval/return": score, "time/eval_at": at})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")
    (directory / "summary.json").write_text(json.dumps(_summary(config, seconds)), encoding="utf-8")


def _summary(config: dict[str, Any], seconds: float) -> dict[str, Any]:
    searches = config["optimizer"]["name"] == "hybrid" and config["optimizer"]["solver"] == "qaoa"
    circuits = 57 if searches else 0
    machine = {"processor": "made up", "cores": 2, "system": "Linux"}
    session = {"step": 0, "versions": {"code": "0", "torch": "2"}, "commit": None, "machine": machine}
    return {
        "finished": True,
        "step": config["steps"],
        "updates": 2872,
        "seconds": seconds,
        "seconds_by_part": {},
        "parameters": {"classical": 286_917, "quantum": 2 * ("head" in config["sequence"])},
        "quantum": {
            "circuits": circuits,
            "shots": circuits * config["quantum"]["shots"],
            "simulator_seconds": 0.02 * circuits,
            "qpu_seconds": 0.0,
            "seconds": 0.04 * seconds * searches,
        },
        "sessions": [session],
    }


if __name__ == "__main__":
    main()
