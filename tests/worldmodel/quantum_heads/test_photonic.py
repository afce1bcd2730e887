"""Photons in a head. MerLin is no part of the tests' environment: one long test makes an environment with it,
and runs the others there."""

import itertools
import math
import os
import subprocess
import sys
import sysconfig
import tomllib
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from qdreamer.worldmodel.quantum_heads.paths import PATHS
from qdreamer.worldmodel.quantum_heads.patterns import PATTERNS
from qdreamer.worldmodel.quantum_heads.photonic import INSTALL
from tests.worldmodel.quantum_heads.test_heads import SMALL, head

ROOT = Path(__file__).parents[3]
MERLIN = find_spec("merlin") is not None
needs_merlin = pytest.mark.skipif(not MERLIN, reason="MerLin is not installed")


@pytest.mark.skipif(MERLIN, reason="MerLin is installed")
def test_without_merlin_the_command_that_installs_it_is_named():
    with pytest.raises(ConfigError, match=r"needs MerLin: pip install .*--no-deps merlinquantum"):
        head("residual", "photonic")


def photons(modes=4, blocks=2):
    torch.manual_seed(0)
    return PATHS["photonic"].part(modes, blocks, normalize="clamp")


def permanent(matrix):
    size = range(len(matrix))
    return sum(
        math.prod(complex(matrix[i, order[i]]) for i in size) for order in itertools.permutations(size)
    )


@needs_merlin
@pytest.mark.parametrize("modes", [2, 4, 5])
def test_outputs_are_those_of_permanents(modes):
    """The unitary is Perceval's; every outcome's probability by its definition."""
    layer, x = photons(modes), torch.rand(3, modes)
    found = layer(x).detach()
    circuit = layer.optics.circuit
    named = {p.name: p for p in circuit.get_parameters()}
    angles = layer.optics.get_parameter("mesh").tolist()
    for name, angle in zip(layer.optics.theta_names, angles, strict=True):
        named[name].set_value(angle, force=True)
    begin = [i for i, count in enumerate(layer.optics.input_state) if count]
    for row, z in zip(x, found, strict=True):
        for k, value in enumerate(row.repeat(2).tolist()):
            named[f"input{k + 1}"].set_value(math.pi * value, force=True)
        unitary = torch.tensor(circuit.compute_unitary())
        outcomes = list(itertools.combinations(range(modes), modes // 2))
        weights = [abs(permanent(unitary[list(out)][:, begin])) ** 2 for out in outcomes]
        mean = [
            sum(w for out, w in zip(outcomes, weights, strict=True) if i in out) / sum(weights)
            for i in range(modes)
        ]
        torch.testing.assert_close(z, 2 * torch.tensor(mean) - 1, rtol=0.0, atol=1e-5)


@needs_merlin
def test_gradients_are_those_of_differences():
    layer = photons()
    x = torch.rand(2, 4, requires_grad=True)
    torch.autograd.gradcheck(lambda rows: layer(rows.float()).double(), x.double(), eps=1e-3, atol=2e-3)
    layer(x).square().sum().backward()
    assert float(layer.optics.get_parameter("mesh").grad.abs().max()) > 0
    frozen = PATHS["photonic_frozen"].part(4)
    assert not any(p.requires_grad for p in frozen.parameters())


@needs_merlin
@pytest.mark.parametrize("path", ["photonic", "photonic_frozen"])
@pytest.mark.parametrize("pattern", PATTERNS.names())
def test_it_goes_with_every_pattern(pattern, path):
    made = head(pattern, path)
    out = made(torch.randn(4, 5, 7))
    assert torch.isfinite(out).all() and out.shape[:2] == (4, 5)


@needs_merlin
def test_an_agent_with_photons_trains_and_resumes_exactly(tmp_path):
    def train(name, steps):
        (tmp_path / name).mkdir(exist_ok=True)
        words = [*SMALL, "heads=quantum", "heads.path=photonic", f"steps={steps}"]
        with closing(Run(load_config(words), tmp_path / name)) as run:
            run.train(Progress(steps, 0, 0))
            return {n: x.clone() for n, x in run.agent.state_dict().items()}

    whole = train("whole", 40)
    train("parts", 28)
    parts = train("parts", 40)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    assert len([name for name in whole if name.endswith("optics.mesh")]) == 2  # the averaged actor's, too


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.timeout(600)
@pytest.mark.skipif(MERLIN, reason="MerLin is installed")
def test_in_an_environment_with_merlin(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    here = sysconfig.get_path("purelib")  # with its .pth files, of which an editable install is one
    (Path(purelib) / "zz_tests.pth").write_text(f"import site; site.addsitedir({here!r})")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = project["optional-dependencies"]["photonic"]
    for words in (needs, INSTALL.rpartition("pip install ")[2].split()):
        subprocess.run([python, "-m", "pip", "install", "-q", *words], check=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-n0", "-rs", "-p", "no:cacheprovider", __file__],
        cwd=ROOT, env=os.environ, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "MerLin is not installed" not in done.stdout  # none was left out for want of it
