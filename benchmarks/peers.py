"""Our update beside a peer's, alternately: python -m benchmarks.peers [--sizes 1M 12M] [--threads 1 2].

Same shapes (B=16, T=64, H=15, imagination from all B·T states), same task (CartPole-v1: vectors, or
with --pixels its rendered picture as 64×64×3 and nothing else), float32. Each candidate runs in a
process of its own with the same number of threads; updates alternate between them, so that all meet the
same disturbances. A peer's time is that of its own `train` function; ours is the whole update, drawing
from replay and writing back included. `plain` is ours without the kernels that need a C compiler,
`decoder_free` ours with world_model.image.objective=redundancy. Memory is the peak resident set of each
process, imports and replay buffer included.

The peer is sheeprl's DreamerV3 (extra `peers`: pip install -e '.[peers]'), not compiled, its default.
Between its updates it takes an environment step and draws the next batch; a pause before every
timed update keeps that out of the others' times.
"""

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

BATCH, LENGTH = 16, 64
PAUSE = 0.3  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1M", "12M"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("--candidates", nargs="+", default=CANDIDATES, choices=list(WORKERS))
    parser.add_argument("--worker", choices=list(WORKERS), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        WORKERS[a.worker](a.sizes[0], a.threads[0], a.pixels)
        return
    print(
        f"CartPole-v1, {'64×64×3 pixels' if a.pixels else 'vectors'}, B={BATCH} T={LENGTH} H=15, "
        f"{BATCH * LENGTH} starts, float32, {a.updates} updates each"
    )
    print("| size | threads | candidate | ms per update: median [min, max] | peak MiB | times ours |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in a.sizes:
        for threads in a.threads:
            compare(a.candidates, size, threads, a.pixels, a.updates)


def compare(candidates: list[str], size: str, threads: int, pixels: bool, updates: int) -> None:
    """Alternate between the candidates and print one line for each."""
    workers = {name: Worker(name, size, threads, pixels) for name in candidates}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(updates + 2):
        for name, worker in workers.items():
            sleep(PAUSE)
            milliseconds = worker.update()
            if i >= 2:  # the first ones allocate
                times[name].append(milliseconds)
    ours = median(times["ours"]) if "ours" in times else float("nan")
    for name, worker in workers.items():
        t, peak = times[name], worker.stop()
        spread = f"{median(t):.0f} [{min(t):.0f}, {max(t):.0f}]"
        print(f"| {size} | {threads} | {name} | {spread} | {peak:.0f} | {median(t) / ours:.2f} |", flush=True)


class Worker:
    """A candidate in its own process, which makes one update at a time when asked to."""

    def __init__(self, name: str, size: str, threads: int, pixels: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.peers", "--worker", name]
        command += ["--sizes", size, "--threads", str(threads)] + ["--pixels"] * pixels
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def update(self) -> float:
        """Milliseconds of one update."""
        return float(self._ask("update"))

    def stop(self) -> float:
        """End the process and return its peak memory in MiB."""
        peak = float(self._ask("stop"))
        self._process.wait()
        return peak

    def _ask(self, what: str) -> str:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith("answer "):
                    return line.split()[1]
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace")[-2000:]
        raise SystemExit(f"error: the worker {self._name} ended:\n{tail}")


def answer(timed_update: Callable[[], Any]) -> None:
    """Obey the parent: one timed update, or report the peak memory and end the process."""
    if sys.stdin.readline().strip() != "update":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"answer {peak}", flush=True)
        os._exit(0)
    begin = perf_counter()
    timed_update()
    print(f"answer {(perf_counter() - begin) * 1e3}", flush=True)


def ours(size: str, threads: int, pixels: bool, *more: str) -> None:
    from qdreamer.agents.cli.composition import load_config
    from qdreamer.agents.training.training import Run

    overrides = [
        "agent=classical", f"world_model={size}", f"train.batch_size={BATCH}", f"train.batch_length={LENGTH}",
        f"agent.imagination_starts={LENGTH}", f"threads={threads}", "logging.writers=[jsonl]", *more,
    ]  # fmt: skip
    if pixels:
        overrides += ["env.id=CartPole-v1", "env.kwargs.render_mode=rgb_array"]
        overrides += ["env.wrappers=[gymnasium.wrappers:AddRenderObservation]"]
    run = Run(load_config(overrides), Path(tempfile.mkdtemp()))
    for _ in range(BATCH * LENGTH + LENGTH):
        run.collector.step(random=True)
    while True:
        answer(run.learner.update)


def plain(size: str, threads: int, pixels: bool) -> None:
    ours(size, threads, pixels, "kernels=false")


def decoder_free(size: str, threads: int, pixels: bool) -> None:
    ours(size, threads, pixels, "world_model.image.objective=redundancy")


def sheeprl(size: str, threads: int, pixels: bool) -> None:
    import sheeprl.algos.dreamer_v3_5.dreamer_v3_5 as peer
    from sheeprl.cli import run

    train = peer.train

    def timed_train(*args: Any, **kwargs: Any) -> Any:
        results = []
        answer(lambda: results.append(train(*args, **kwargs)))
        return results[0]

    peer.train = timed_train
    os.chdir(tempfile.mkdtemp())
    sys.argv = [
        "sheeprl", "exp=dreamer_v3_5", f"algo=dreamer_v3_5_{size}", "env=gym", "env.id=CartPole-v1",
        "env.num_envs=1", "env.sync_env=True", "env.capture_video=False",
        f"algo.per_rank_batch_size={BATCH}", f"algo.per_rank_sequence_length={LENGTH}",
        "algo.replay_ratio=1", f"algo.learning_starts={BATCH * LENGTH + LENGTH}", "algo.total_steps=1000000",
        "buffer.size=20000", "buffer.memmap=False", "checkpoint.every=0", "metric.log_level=0",
        f"num_threads={threads}",
    ]  # fmt: skip
    seen, other, mode = ("cnn", "mlp", "rgb_array") if pixels else ("mlp", "cnn", "null")
    sys.argv += [
        f"algo.{seen}_keys.encoder=[{'rgb' if pixels else 'vector'}]",
        f"algo.{other}_keys.encoder=[]",
    ]
    sys.argv += [f"env.wrapper.render_mode={mode}"]
    run()


WORKERS: dict[str, Callable[[str, int, bool], None]] = {
    "ours": ours,
    "plain": plain,
    "decoder_free": decoder_free,
    "sheeprl": sheeprl,
}

CANDIDATES = ["ours", "plain", "sheeprl"]  # decoder_free is for pixels


if __name__ == "__main__":
    main()
