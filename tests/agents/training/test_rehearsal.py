"""Parts from outside may read their settings whenever they like: what they are given counts as read."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.optim.optimizer import OPTIMIZERS, OptimizerConfig
from qdreamer.agents.replay.transforms import TRANSFORMS, Transform
from qdreamer.agents.training.rehearsal import keys_read, registered_here
from qdreamer.configs.schema import Float, settings


@settings
class DecayingConfig(OptimizerConfig):
    lr: Float
    decay: Float = 0.9


class Decaying(torch.optim.SGD):
    """Reads `decay` in its steps alone."""

    def __init__(self, config: DecayingConfig, parameters: Any) -> None:
        super().__init__(parameters, lr=config.lr)
        self._config = config

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] *= self._config.decay
        return super().step(closure)

    @staticmethod
    def make(config: DecayingConfig, agent: Any, seed: int, circuits: Any) -> torch.optim.Optimizer:
        return Decaying(config, agent.trainable())


class Plain(Transform):
    """Reads nothing."""

    @classmethod
    def make(cls, config: Any) -> "Plain":
        return cls()


@pytest.fixture
def _outside() -> Iterator[None]:
    OPTIMIZERS.register("decaying", DecayingConfig)(Decaying)
    TRANSFORMS.register("plain")(Plain)
    yield
    OPTIMIZERS._entries.pop("decaying")
    TRANSFORMS._entries.pop("plain")


@pytest.mark.usefixtures("_outside")
def test_a_part_from_outside_may_read_its_settings_later() -> None:
    read = keys_read(load_config(["agent=classical", "optimizer=decaying", "optimizer.decay=0.5"]))
    assert {"optimizer.lr", "optimizer.decay"} <= read
    assert not {"replay.decay", "attention.noise"} & read  # of sections without a part from outside


@pytest.mark.usefixtures("_outside")
def test_so_may_one_that_a_section_names() -> None:
    words = ["agent=classical", "replay=prioritized"]
    assert "replay.temperature" not in keys_read(load_config(words))
    outside = load_config([*words, "replay.transform=plain"])
    assert "replay.temperature" in keys_read(outside)
    assert registered_here(outside) and not registered_here(load_config(words))
