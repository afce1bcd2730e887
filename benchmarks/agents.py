"""Updates of several agents in turns: python -m benchmarks.agents [--length 64] [--starts 8] ["settings" …].

Each argument is one agent, as the settings of train.py in one string ("agent=classical threads=2"); the first
is what the others are measured against. Whole updates as a run makes them, replay and optimizer included,
alternating between the agents, so that a machine whose speed drifts does so for all of them. With
`optimizer=hybrid` every fiftieth update searches: `--updates 50` has one search in each turn.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.cores import usable_cores, use_threads
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.training import Run

AGENTS = [
    "agent=classical",
    "agent=classical_with_attention",
    "agent=classical_with_attention attention=softmax",
    "agent=hybrid",
    "agent=classical sequence=transformer",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="B")
    parser.add_argument("--length", type=int, default=64, help="T")
    parser.add_argument("--rows", type=int, default=400, help="of random play in each environment")
    parser.add_argument("--starts", type=int, default=8, help="imagination starts per sequence")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=5, help="in one turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("agents", nargs="*", default=AGENTS)
    a = parser.parse_args()
    common = [
        f"train.batch_size={a.batch}", f"train.batch_length={a.length}", f"threads={a.threads}",
        f"agent.imagination_starts={a.starts}", "logging.writers=[jsonl]",
    ]  # fmt: skip
    learners = {agent: filled([*common, *agent.split()], a.rows) for agent in a.agents}
    times: dict[str, list[float]] = {agent: [] for agent in learners}
    for i in range(a.rounds + 1):  # the first only warms up
        for agent, (learner, threads) in learners.items():
            use_threads(threads)
            begin = perf_counter()
            for _ in range(a.updates):
                learner.update()
            if i:
                times[agent].append((perf_counter() - begin) / a.updates * 1e3)
    print(f"B={a.batch} T={a.length} starts={a.batch * a.starts} unless an agent says otherwise; ms in turns")
    print("| agent | threads | update [least, most] | ratio to the first: median of the rounds [95 %] |")
    print("|---|---|---|---|")
    first = times[a.agents[0]]
    for agent, ms in times.items():
        ratios = np.divide(ms, first)
        drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))  # bootstrap of the median
        low, high = np.percentile(np.median(drawn, 1), [2.5, 97.5])
        threads = min(learners[agent][1], usable_cores())
        spread = f"{median(ms):.1f} [{min(ms):.1f}, {max(ms):.1f}]"
        print(f"| {agent} | {threads} | {spread} | {median(ratios):.3f} [{low:.3f}, {high:.3f}] |")


def filled(overrides: list[str], rounds: int) -> tuple[Learner, int]:
    """A learner with random play to learn from, and the threads that it takes."""
    config = load_config(overrides)
    with tempfile.TemporaryDirectory() as directory:
        run = Run(config, Path(directory))
        for _ in range(rounds):
            run.collector.step(random=True)
        assert run.observer is not None
        for part in (run.observer, run.collector):  # the learner goes on
            part.close()
    return run.learner, config.threads


if __name__ == "__main__":
    main()
