"""A sample of `python -m tests.every_key`: keys change the run, or are refused."""

import pytest

from qdreamer.configs.recording import leaves
from tests.every_key import AGENTS, CONTEXTS, EXCEPTIONS, SMALL, check, composed

SAMPLE = {
    "classical": {
        "agent.lambda_": "changed", "agent.slow_scale": "changed", "world_model.free_nats": "changed",
        "train.forget": "changed", "replay.online": "changed", "replay.capacity": "changed",
        "optimizer.agc": "changed", "evaluation.seed": "changed", "env.repeat": "changed",
        "attention.noise": "refused", "quantum.shots": "refused", "agent.min_std": "refused",
        "world_model.core": "refused", "world_model.image.depth": "refused",
    },
    "hybrid": {
        "attention.noise": "changed", "sequence.filled": "changed", "world_model.core": "changed",
        "replay.floor": "changed", "optimizer.epsilon": "changed", "optimizer.p_layers": "changed",
        "quantum.shots": "changed", "replay.decay": "refused", "attention.heads": "refused",
        "optimizer.wait": "refused", "quantum.mitigation": "refused",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("agent", SAMPLE)
def test_keys_change_the_run_or_are_refused(agent: str) -> None:
    assert check(agent, set(SAMPLE[agent])) == SAMPLE[agent]


def test_exceptions_are_keys() -> None:
    """No reason outlives its key."""
    known = {key for words in (AGENTS | CONTEXTS).values() for key in leaves(composed([*SMALL, *words])[2])}
    assert set(EXCEPTIONS) <= known
