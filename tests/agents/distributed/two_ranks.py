"""What the tests have two ranks do; as a script, the program of each rank.

    torchrun --standalone --nproc-per-node=2 tests/agents/distributed/two_ranks.py FOLDER

Every rank leaves its results in FOLDER/<rank>.pt.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.distributed.process_group import join
from qdreamer.agents.distributed.ranks import RanksError, SingleProcess
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.collector import Collector
from qdreamer.agents.replay.sampler import Starts
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.training import make_learner
from qdreamer.worldmodel.networks.heads import symlog

NETWORKS = [
    "world_model.units=16", "world_model.deter=16", "world_model.hidden=16", "world_model.stoch=4",
    "world_model.classes=4", "world_model.bins=41", "train.batch_size=4", "logging.writers=[jsonl]",
]  # fmt: skip
LEARNER = [
    *NETWORKS, "train.batch_length=8", "train.forget=0.5", "agent.imagination_starts=4",
    "agent.imagination_horizon=5", "optimizer.warmup=0", "agent.return_limit=1e-9",
    "agent=classical", "replay=prioritized",
]  # fmt: skip
CASES = [(env, dtype) for env in ("CartPole", "Pendulum") for dtype in (torch.float64, torch.float32)]
SEQUENCES, ENVS, STEPS = 4, 2, 60  # of all ranks together


class JointRows:
    """Stands for a sampler: draws the same sequences of the joint replay on any number of ranks.

    Sequence b begins in row 5 + 7b of environment b // 2; importance weights rise from ½ to 2.
    """

    def __init__(self, ranks: SingleProcess) -> None:
        self._ranks = ranks
        self.errors: list[torch.Tensor] = []

    def added(self, env: Any, row: Any) -> None:
        """Rows are known beforehand."""

    def draw(self, count: int, eligible: Any) -> tuple[Starts, Any]:
        own = self._ranks.own
        env = own(np.arange(SEQUENCES) // 2) - self._ranks.rank * ENVS // self._ranks.size
        weights = own(np.linspace(0.5, 2.0, SEQUENCES, dtype=np.float32))
        assert len(env) == count
        return Starts(env, own(5 + 7 * np.arange(SEQUENCES))), weights

    def update(self, starts: Starts, errors: Any) -> None:
        self.errors.append(torch.from_numpy(errors.copy()))

    def state_dict(self) -> dict[str, Any]:
        return {}


@torch.no_grad()
def train_heads(learner: Learner) -> None:
    """Give two-hot heads what training gives them: small weights, little probability far out.

    The outer bins, which stand for ±4.8e8, would else magnify the rounding of probabilities.
    """
    critic, random = learner.agent.critic, torch.Generator().manual_seed(0)
    for head in (learner.agent.world_model.reward, critic.online):
        head.out.weight.copy_(0.2 * torch.rand(head.out.weight.shape, generator=random) - 0.1)
        head.out.bias.copy_(-2.0 * symlog(head.bins).abs())
    critic.slow.load_state_dict(critic.online.state_dict())


def update(ranks: SingleProcess, env: str, dtype: torch.dtype) -> dict[str, Any]:
    """One update after random play in two environments, and all that it found."""
    config = load_config([*LEARNER, f"env={env}", f"env.num_envs={ENVS // ranks.size}"])
    # Stored states are of half precision: from float32 a few would be rounded to the other side, as one
    # process multiplies two rows at once and two processes one row each.
    torch.set_default_dtype(torch.float64)
    learner = make_learner(config, Path(), ranks)
    train_heads(learner)
    learner.replay.sampler = sampler = JointRows(ranks)  # type: ignore[assignment]
    count = config.env.num_envs
    collector = Collector(config.env, learner.replay, ActingLoop(learner.agent, count, 0, ranks=ranks), 0)
    for _ in range(STEPS):
        collector.step(random=True)
    collector.close()
    torch.set_default_dtype(torch.float32)
    learner.agent.to(dtype)
    step = learner.optimizer.step
    gradients: dict[str, torch.Tensor] = {}

    def recorded(*arguments: Any, **keywords: Any) -> Any:
        for name, p in learner.agent.named_parameters():
            if p.grad is not None:
                gradients[name] = p.grad.clone()
        return step(*arguments, **keywords)

    learner.optimizer.step = recorded  # type: ignore[method-assign]
    metrics = learner.update()
    return {
        "gradients": gradients,
        "metrics": metrics,
        "agent": learner.agent.state_dict(),
        "rows": learner.replay.state_dict()["data"],
        "errors": torch.cat(sampler.errors),
        "generator": learner.generator.get_state(),
    }


def search(ranks: SingleProcess) -> dict[str, Any]:
    """Some updates of the default agent with searches, in every second of them."""
    config = load_config([*NETWORKS, "train.batch_length=8", "agent.imagination_starts=4", "env=CartPole",
                          "optimizer=hybrid", "optimizer.every=2", "optimizer.warmup=0"])  # fmt: skip
    learner = make_learner(config, Path(), ranks)
    acting = ActingLoop(learner.agent, config.env.num_envs, 0, ranks=ranks)
    collector = Collector(config.env, learner.replay, acting, 0)
    for _ in range(STEPS):
        collector.step(random=True)
    collector.close()
    for _ in range(9):
        learner.update()
    log = learner.optimizer.metrics()
    return {"agent": learner.agent.state_dict(), "log": log, "rows": learner.replay.state_dict()["data"]}


def talk(ranks: SingleProcess) -> dict[str, Any]:
    """What the ranks tell each other, apart from an update's tensors."""
    found: dict[str, Any] = {
        "maximum": [ranks.maximum(15 * ranks.rank), ranks.maximum(0)],
        "lists": ranks.gather_lists([ranks.rank] * ranks.rank),
        "from_rank_0": ranks.from_rank_0(lambda: f"of rank {ranks.rank}"),
        "gather": ranks.gather(torch.full((2, 3), ranks.rank)),
        "mean": ranks.mean(torch.tensor([1.0, 2.0 * ranks.rank])),
        "draw": ranks.draw(torch_rand, 2, 3, generator=torch.Generator().manual_seed(0), dim=1),
    }
    with ranks.collective_errors():
        pass
    try:
        with ranks.collective_errors():
            if ranks.rank == 1:
                raise ValueError("no such device")
    except (RanksError, SystemExit) as error:
        found["error"] = (type(error).__name__, str(error))
    module = torch.nn.Linear(3, 2).to(torch.float16)
    ranks.broadcast(module)
    ranks.check_equal(module, 7)
    if ranks.rank == 1:
        with torch.no_grad():
            module.bias[1] = torch.nextafter(module.bias[1], module.bias[1] + 1.0)
    for step in (7, 8 + ranks.rank):
        try:
            ranks.check_equal(module, step)
        except RanksError as error:
            found[f"drift at {min(step, 8)}"] = str(error)
        ranks.broadcast(module)
    return found


def torch_rand(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator)


def main() -> None:
    torch.set_num_threads(1)
    ranks, folder = join(), Path(sys.argv[1])
    found = {
        "talk": talk(ranks),
        "updates": [update(ranks, *case) for case in CASES],
        "search": search(ranks),
    }
    torch.save(found, folder / f"{ranks.rank}.pt")
    ranks.exit(0)


if __name__ == "__main__":
    main()
