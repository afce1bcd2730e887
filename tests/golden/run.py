"""Updates in float64 whose losses are compared with those on file.

`python -m tests.golden.run --write` computes them anew, into one JSON file for each case beside this one:
only when what the program computes is meant to change.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.training import Run
from qdreamer.worldmodel.networks.heads import symlog

UPDATES = 8
ROWS = 260  # collected steps: more than an episode of Pendulum
AGENTS = {
    "classical": ("agent=classical",),
    "hybrid": ("agent=hybrid_with_optimizer",),
    "transformer": ("agent=hybrid_with_optimizer", "sequence=transformer"),
}
CASES = [(agent, env) for agent in AGENTS for env in ("CartPole", "Pendulum")]
SEARCH = ("optimizer.every=2", "optimizer.wait=true")  # four searches with QAOA within the updates
SEARCHED = ("accepted", "decrease_base", "decrease_chosen", "predicted_base", "predicted_chosen")


def file(agent: str, env: str) -> Path:
    """Where the losses of a case are stored."""
    return Path(__file__).parent / f"{agent}-{env}.json"


@contextmanager
def open_run(*overrides: str, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> Iterator[Run]:
    """The run that `overrides` describe, before its first update, with `rows` random steps in its replay.

    Weights are drawn, contexts stored and updates made in `dtype`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        config = load_config(["logging.writers=[jsonl]", *overrides])
        with tempfile.TemporaryDirectory() as directory, closing(Run(config, Path(directory))) as run:
            run.agent.to(dtype)
            for _ in range(rows):
                run.collector.step(random=True)
            _train_heads(run)
            yield run
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def _train_heads(run: Run) -> None:
    """Give the two-hot heads what training gives them: small weights, little probability far out.

    They begin at zero. Then many gradients are zero but for rounding, which the optimizer normalises to
    whole steps; and the outer bins, which stand for ±4.8e8, magnify the rounding of probabilities.
    """
    critic, random = run.agent.critic, torch.Generator().manual_seed(0)
    for head in (run.agent.world_model.reward, critic.online):
        head.out.weight.uniform_(-0.1, 0.1, generator=random)
        head.out.bias.copy_(-2.0 * symlog(head.bins).abs())
    critic.slow.load_state_dict(critic.online.state_dict())


def golden(agent: str, env: str, *overrides: str, updates: int = UPDATES) -> list[dict[str, float]]:
    """What each update found: means of the losses, their scaled sum, norms of gradients, searches."""
    search = () if agent == "classical" else SEARCH
    found = []
    with open_run(*AGENTS[agent], f"env={env}", "kernels=false", *search, *overrides) as run:
        for _ in range(updates):
            metrics = {name: float(value) for name, value in run.learner.update().items()}
            kept = {n: value for n, value in metrics.items() if n.startswith(("loss/", "gradient_norm/"))}
            scales = run.agent.loss_scales
            kept["loss/total"] = sum(kept[f"loss/{name}"] * scale for name, scale in scales.items())
            searched = run.learner.optimizer.metrics()
            names = [f"optimizer/{name}" for name in SEARCHED]
            found.append(kept | {name: searched[name] for name in names if name in searched})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="replace the files")
    parser.parse_args()
    for case in CASES:
        file(*case).write_text(json.dumps(golden(*case), indent=1) + "\n")
        print(f"wrote {file(*case)}")
