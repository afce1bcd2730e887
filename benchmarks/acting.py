"""Milliseconds per decision: python -m benchmarks.acting [--envs 1 20] [--rounds 24] ["settings" …].

Each argument is one agent, as the settings of train.py in one string. A decision filters the newest
observations of all environments and chooses actions; in turns with the kernel of that step and without it,
200 decisions each, on one thread. Beside it a step of collecting: a decision, the environments' step and what
replay does with it.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.training import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("agents", nargs="*", default=["agent=classical", "agent=hybrid"])
    a = parser.parse_args()
    print("| agent | environments | decision | without kernel | ratio [95 %] | step of collecting |")
    print("|---|---|---|---|---|---|")
    for agent in a.agents:
        for envs in a.envs:
            print(f"| {agent} | {envs} | {measured(agent.split(), envs, a.rounds)} |", flush=True)


def measured(settings: list[str], envs: int, rounds: int) -> str:
    common = ["env=CartPole", "threads=1", "logging.writers=[jsonl]", f"env.num_envs={envs}"]
    with tempfile.TemporaryDirectory() as directory:
        collector = Run(load_config([*common, *settings]), Path(directory)).collector
        for _ in range(100):
            collector.step(random=False)
        acting, observation = collector._actor, collector._observation
        first, state = np.zeros(envs, np.bool_), acting.state()

        def decide() -> None:
            acting.act(observation, first)
            acting.restore(state)  # the memory stays as long as it is

        times: list[tuple[float, float]] = []
        for _ in range(rounds):
            with_kernel = per_call(decide)
            with native.without("filter"):
                times.append((with_kernel, per_call(decide)))
        collecting = per_call(lambda: collector.step(random=False))
    new, old = np.array(times).T
    drawn = np.random.default_rng(0).choice(new / old, (2000, rounds))  # bootstrap of the median
    low, high = np.percentile(np.median(drawn, 1), [2.5, 97.5])
    ratio = f"{median(new / old):.2f} [{low:.2f}, {high:.2f}]"
    return f"{median(new):.2f} | {median(old):.2f} | {ratio} | {collecting:.2f}"


def per_call(function: Callable[[], object], calls: int = 200) -> float:
    """Return milliseconds."""
    begin = perf_counter()
    for _ in range(calls):
        function()
    return (perf_counter() - begin) / calls * 1e3


if __name__ == "__main__":
    main()
