"""What a test has two ranks do whose environment fails on one of them, as a script: failing_ranks.py FOLDER.

Prints a line of JSON for each run: its ranks' exit codes, and what they said.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

from qdreamer.envs.seeds import evaluation_seed
from tests.storm import forks

SICK = "SICK"  # which rank fails, and in what: its 40th step of training, or its first of an evaluation
WORDS = [
    "env=gym", "env.id=tests.agents.distributed.failing_ranks:Frail-v0", "agent=classical",
    "world_model.units=8", "world_model.deter=8", "world_model.hidden=8", "world_model.stoch=2",
    "train.batch_size=2", "train.batch_length=8", "train.replay_ratio=2", "train.prefill=40",
    "agent.imagination_horizon=3", "evaluation.every=100", "evaluation.episodes=2", "evaluation.horizon=5",
    "checkpoint.every=1000", "logging.every=20", "logging.writers=[jsonl]", "steps=140",
]  # fmt: skip


class Frail(CartPoleEnv):
    """CartPole, which fails where `SICK` says."""

    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.examined = seed in {evaluation_seed(0, episode) for episode in range(2)}
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self.steps += 1
        due = "evaluation" if self.examined else "training" if self.steps == 40 else None
        if os.environ.get(SICK) == f"{os.environ.get('RANK')} {due}":
            raise ValueError("the motor is stuck")
        return super().step(action)


gymnasium.register("Frail-v0", Frail, max_episode_steps=15)


def main(folder: Path) -> None:
    forks.prepare([[*WORDS, f"runs={folder}"]])
    for name, sick in (("frail", "1 training"), ("frail", "0 evaluation"), ("frail", ""), ("sound", "")):
        os.environ[SICK] = sick
        output = folder / "output.txt"
        output.unlink(missing_ok=True)
        processes = forks.start([*WORDS, f"runs={folder / name}"], output, 2, None)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        print(json.dumps({"codes": codes, "said": output.read_text()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
