"""What a second process brings: torchrun --nproc-per-node=2 -m benchmarks.parallel [--size 1M].

Milliseconds of an update of B sequences by one process with one thread, by one process with
as many threads as there are ranks (on a CPU), and by all ranks, one thread each. They take turns, so
that ratios hold on a machine whose speed varies; the others wait meanwhile, without using the
processor. Printed: medians, and the speed of each beside one process with one thread.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.distributed.process_group import join
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.collector import Collector
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.session import check_ranks
from qdreamer.agents.training.training import make_learner, prepare_torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1M")
    parser.add_argument("--batch", type=int, default=16, help="B of all ranks together")
    parser.add_argument("--length", type=int, default=64, help="T")
    parser.add_argument("--starts", type=int, default=64, help="imagination starts per sequence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", nargs="*", help="further settings, as in train.py")
    a = parser.parse_args()
    ranks = join()
    if ranks.size == 1:
        sys.exit("error: start it with torchrun --nproc-per-node=2 -m benchmarks.parallel")
    config = load_config(
        [
            "agent=classical", f"world_model={a.size}", f"train.batch_size={a.batch}",
            f"train.batch_length={a.length}",
            f"agent.imagination_starts={a.starts}", f"device={a.device}", *a.overrides,
        ]
    )  # fmt: skip
    check_ranks(config, ranks)
    prepare_torch(config)
    torch.set_num_threads(1)
    shared = filled(config, ranks)
    ranks.broadcast(shared.agent)
    alone = filled(config, SINGLE_PROCESS) if ranks.rank == 0 else None
    choices = [1, ranks.size] if shared.device.type == "cpu" else [1]
    times: defaultdict[str, list[float]] = defaultdict(list)
    for i in range(a.rounds + 1):  # the first only warms up
        taken = {}
        if alone is not None:
            for threads in choices:
                torch.set_num_threads(threads)
                taken[f"1 process, threads={threads}"] = milliseconds(alone)
            torch.set_num_threads(1)
        ranks.maximum(0)  # here the others wait
        taken[f"{ranks.size} processes"] = milliseconds(shared)
        if i:
            for name, time in taken.items():
                times[name].append(time)
    if ranks.rank == 0:
        print(
            f"{a.size} B={a.batch} T={a.length} starts={a.batch * a.starts} device={a.device}, ms per update"
        )
        base = median(times["1 process, threads=1"])
        for name, values in times.items():
            spread = f"{min(values):.0f}–{max(values):.0f}"
            print(f"{name:>22}  {median(values):7.1f}  ({spread})  × {base / median(values):.2f}")
    ranks.exit(0)


def filled(config: Config, ranks: SingleProcess) -> Learner:
    """A learner with random play to learn from."""
    learner = make_learner(config, Path(), ranks)
    acting = ActingLoop(learner.agent, config.env.num_envs, 0, ranks=ranks)
    collector = Collector(config.env, learner.replay, acting, 0)
    for _ in range(4 * config.train.batch_length):
        collector.step(random=True)
    collector.close()
    return learner


def milliseconds(learner: Learner) -> float:
    """One update."""
    begin = perf_counter()
    learner.update()
    if learner.device.type == "cuda":
        torch.cuda.synchronize()
    return (perf_counter() - begin) * 1e3


if __name__ == "__main__":
    main()
