"""Qiskit, PennyLane and torch's compiler are imported by those who need them, and by nobody else."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_simulator_and_its_users_import_neither():
    out = run(
        "import sys\n"
        "from qdreamer.quantum.backends import factory\n"
        "from qdreamer.quantum.jobs import dry_run, job_queue\n"
        "from qdreamer.quantum.qaoa import qaoa, controls\n"
        "import torch\n"
        "from qdreamer.quantum.circuits.backend import run\n"
        "from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask\n"
        "run(job_queue.Statevector(), [AmplitudeTask(torch.ones(1, 4))], 10, 0)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'qiskit', 'qiskit_aer', 'qiskit_ibm_runtime', 'pennylane'}))"
    )
    assert out == "[]"


def test_the_package_itself_costs_nothing():
    out = run(
        "import sys, qdreamer; before = set(sys.modules); import qdreamer.quantum; "
        "print(len(set(sys.modules) - before))"
    )
    assert int(out) == 1
    seconds = run(
        "import torch, time; begin = time.process_time(); "
        "import qdreamer.quantum.backends.factory, qdreamer.quantum.qaoa.qaoa; "
        "print(time.process_time() - begin)"
    )
    assert float(seconds) < 0.5  # 0.02 on an idle machine


def test_a_run_imports_only_what_it_needs(tmp_path):
    """train.py from its first line to its last, classical and with the simulator of this process.

    Each of these libraries takes about as long as torch itself.
    """
    small = (
        "env=CartPole agent=classical kernels=false steps=24 train.prefill=8 train.batch_size=2 "
        "train.batch_length=4 train.replay_ratio=4 "
        "agent.imagination_starts=2 evaluation.episodes=1 evaluation.max_steps=4 evaluation.horizon=2 "
        f"evaluation.context=1 logging.writers=[jsonl] runs={tmp_path}"
    ).split()
    out = run(
        "import runpy, sys\n"
        "for more in ([], ['optimizer=hybrid', 'optimizer.every=2']):\n"
        f"    sys.argv = ['train.py', *{small!r}, *more]\n"
        "    try:\n"
        "        runpy.run_path('train.py', run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, end.code\n"
        "    print(sorted(sys.modules.keys() & "
        "{'qiskit', 'qiskit_aer', 'qiskit_ibm_runtime', 'pennylane', 'torch._dynamo'}))"
    )
    assert out.count("done: 24 steps") == 2
    assert [line for line in out.splitlines() if line.startswith("[")] == ["[]", "[]"]
