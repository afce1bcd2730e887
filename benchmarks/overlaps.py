"""`attention=circuit`: how far measured overlaps lie from exact ones, and what a call costs.

python -m benchmarks.overlaps [--qubits 3 4] [--shots 1000]

Random unit vectors, each query with each key. Analytic overlaps are compared with `born`; shots on an
ideal simulator with the bound that Hoeffding's inequality and Bonferroni's correction give for all pairs
at once (level 1 %); fake devices by the exact distribution that their noise leads to, and by shots.
"""

import argparse
import math
import os
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from qdreamer.agents.cli.composition import load_config
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.circuits.overlaps import OverlapTask
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.circuit import Circuit

STEPS = 12  # queries and keys


def settings(*words: str) -> QuantumConfig:
    return load_config(list(words)).quantum


def correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])


def print_qubits(qubits: int, shots: int) -> None:
    width = 2**qubits
    source = torch.Generator().manual_seed(qubits)
    born = Born(1, width)
    q, k = (born.encode(x) for x in torch.randn(2, STEPS, width, generator=source, dtype=torch.float64))
    exact = born.overlaps(q, k)
    print(f"\n{qubits} qubits, {STEPS * STEPS} pairs, {shots} shots each")
    bound = math.sqrt(math.log(2 * exact.numel() / 0.01) / (2 * shots))
    print(f"{'':<28}{'largest error':>14}{'correlation':>13}{'ms':>8}")

    def line(name: str, found: Tensor, seconds: float) -> None:
        error = float((found - exact).abs().max())
        print(f"{name:<28}{error:>14.1e}{correlation(found, exact):>13.4f}{1e3 * seconds:>8.0f}", flush=True)

    analytic = Circuit(1, width)
    analytic.overlaps(q, k)
    begin = process_time()
    line("analytic", analytic.overlaps(q, k), process_time() - begin)
    pairs = OverlapTask(q.repeat_interleave(STEPS, 0), k.repeat(STEPS, 1))
    words = {
        f"shots (bound {bound:.3f})": ["quantum=aer"],
        "shots, FakeGuadalupeV2": ["quantum=aer_noisy", "quantum.device=FakeGuadalupeV2"],
        "… mitigated": [
            "quantum=aer_noisy",
            "quantum.device=FakeGuadalupeV2",
            "quantum.mitigation=true",
        ],
        "shots, FakeFez": ["quantum=aer_noisy", "quantum.device=FakeFez"],
        "shots, ibm on FakeFez": ["quantum=ibm", "quantum.device=FakeFez"],
    }
    for name, overrides in words.items():
        backend = make_backend(settings(*overrides))
        run(backend, [pairs], 1, 0)
        begin = process_time()
        measured = run(backend, [pairs], shots, 1)
        seconds = process_time() - begin
        found = OverlapTask.overlaps(measured.bits[0], measured.confusion[0])
        line(name, found.view_as(exact), seconds)
    for device in ("FakeGuadalupeV2", "FakeFez"):
        backend = make_backend(settings("quantum=aer_noisy", f"quantum.device={device}"))
        begin = process_time()
        p = backend.probabilities(pairs)  # type: ignore[attr-defined]
        line(f"∞ shots, {device}", p[:, 0].view_as(exact), process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--qubits", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--shots", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for qubits in arguments.qubits:
        print_qubits(qubits, arguments.shots)


if __name__ == "__main__":
    main()
