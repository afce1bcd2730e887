"""A manual test of the way to a real device: every kind of circuit once, beside its exact distribution.

python -m benchmarks.hardware                          on a fake device, nothing is spent
python -m benchmarks.hardware --device least_busy --dry-run   what it would cost there
python -m benchmarks.hardware --device least_busy      one job of seconds of QPU time; needs an account

The account is the saved one, or QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE (docs/ibm.md).
"""

import argparse
import sys
from dataclasses import replace

import torch
from torch import Tensor

from qdreamer.agents.cli.composition import load_config
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.backends.statevector import probabilities
from qdreamer.quantum.circuits.backend import Backend, BackendError, CredentialsError, Task, run
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.circuits.overlaps import OverlapTask, exact_overlaps
from qdreamer.quantum.circuits.sampling import bits_to_index
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.dry_run import Planned, report
from qdreamer.quantum.qaoa.ansatz import IsingTask, angles
from qdreamer.quantum.qaoa.ising import approximation_ratio, energies, from_qubo
from qdreamer.quantum.qaoa.qaoa import mean_energy
from qdreamer.quantum.qaoa.simulator import Simulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="FakeFez", help="a device's name, a fake one's, or least_busy")
    parser.add_argument("--shots", type=int, default=1024)
    parser.add_argument("--seconds", type=int, default=60, help="the service stops the job after so many")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    config = load_config(["quantum=ibm", f"quantum.device={arguments.device}"]).quantum
    config = replace(config, shots=arguments.shots, budget_seconds=float(arguments.seconds))
    try:
        backend = make_backend(config)
        if arguments.dry_run:
            plan = [Planned(name, task, config.shots, 1) for name, task in tasks().items()]
            print(report(backend, config.device, plan, None, config.budget_seconds))
        else:
            test(backend, config)
    except (BackendError, CredentialsError, ValueError) as error:
        sys.exit(f"error: {error}")


def tasks() -> dict[str, Task]:
    """QAOA, loaded amplitudes, overlaps: small enough for today's devices."""
    source = torch.Generator().manual_seed(0)
    ising = from_qubo(torch.randn(4, 4, generator=source, dtype=torch.float64))
    queries, noise = torch.randn(2, 4, 8, generator=source)
    keys = queries + torch.tensor([[0.0], [0.5], [1.0], [2.0]]) * noise  # from equal to unlike
    weights = torch.rand(1, 8, generator=source)
    return {
        "QAOA n=4 p=1": IsingTask(ising, angles(ising, 1)),
        "amplitudes n=3": AmplitudeTask(weights),
        "overlaps n=3": OverlapTask(queries, keys),
    }


def test(backend: Backend, config: QuantumConfig) -> None:
    """One job with all circuits; what came back, and how far it lies from the exact distribution."""
    named = tasks()
    measurement = run(backend, list(named.values()), config.shots, 0)
    usage = measurement.usage
    print(f"{config.device}: {usage.circuits} circuits, {usage.shots} shots, {usage.seconds:.1f} s, "
          f"{usage.queue_seconds:.1f} s in the queue")  # fmt: skip
    answers = zip(named.items(), measurement.bits, measurement.confusion, strict=True)
    for (name, task), bits, confusion in answers:
        exact = probabilities(task)
        print(f"{name}: total variation {distance(bits, exact):.3f} "
              f"(exact draws: {noise_floor(exact, config.shots):.3f})")  # fmt: skip
        if isinstance(task, IsingTask):
            table = energies(task.ising, torch.float64)
            found = approximation_ratio(table, float(mean_energy(task.ising, bits, confusion).mean()))
            ideal = approximation_ratio(table, float(Simulator(task.ising).expectation(task.angles)))
            print(f"  approximation ratio {found:.3f}, exact {ideal:.3f}, uniform bits "
                  f"{approximation_ratio(table, float(table.mean())):.3f}")  # fmt: skip
        if isinstance(task, OverlapTask):
            print(f"  measured {shown(task.overlaps(bits, confusion))}")
            print(f"  exact    {shown(exact_overlaps(task.queries, task.keys))}")


def distance(bits: Tensor, exact: Tensor) -> float:
    """Mean total variation distance of frequencies of bits (R, S, n) from P(x) (R, 2^n)."""
    index = bits_to_index(bits)
    counts = torch.stack([torch.bincount(row, minlength=exact.shape[1]) for row in index])
    return float((counts / index.shape[1] - exact).abs().sum(1).mean() / 2)


def noise_floor(exact: Tensor, shots: int) -> float:
    """The same for draws from P(x) itself."""
    source = torch.Generator().manual_seed(1)
    index = torch.multinomial(exact.float(), shots, replacement=True, generator=source)
    counts = torch.stack([torch.bincount(row, minlength=exact.shape[1]) for row in index])
    return float((counts / shots - exact).abs().sum(1).mean() / 2)


def shown(values: Tensor) -> str:
    return " ".join(f"{float(value):.3f}" for value in values)


if __name__ == "__main__":
    main()
