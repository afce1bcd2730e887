"""The block GRU with attention over the episode beside it: a steady state, and a memory that looks things up.

The recurrence and its posterior are those of `gru.py`, untouched; what attention reads joins h_t for the
prior, and again for everything that is predicted (`episodic_memory.py`).
"""

from typing import Any, Self

from pydantic import Field
from torch import Tensor

from qdreamer import native
from qdreamer.configs.schema import LONGEST, WIDEST, Bool, Int, settings
from qdreamer.worldmodel.sequence_models.episodic_memory import EpisodicMemory
from qdreamer.worldmodel.sequence_models.gru import BlockGRU, GRUConfig
from qdreamer.worldmodel.sequence_models.interface import SEQUENCE_MODELS
from qdreamer.worldmodel.sequence_models.layer_view import LayerView
from qdreamer.worldmodel.sequence_models.mixed_attention import make_attention


@settings
class GRUAttentionConfig(GRUConfig):
    """The GRU's widths, and the memory's; what attends is in the `attention` section."""

    memory: Int = Field(ge=2)  # E, width of tokens and reads
    head: Int = Field(ge=2)  # d; E/d heads
    memory_hidden: Int = Field(ge=1, le=WIDEST)  # width of the memory's MLP
    window: Int = Field(ge=2, le=LONGEST)  # steps that a step sees, itself included
    filled: Bool  # whether a replayed sequence begins with what was before it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head % 2 or self.memory % self.head:
            raise ValueError(
                f"sequence.head={self.head} must be even and divide sequence.memory={self.memory}: "
                "rotary phases turn pairs of features"
            )

    def check(self, root: Any) -> None:
        root.attention.check(root)


@SEQUENCE_MODELS.register("gru_attention", GRUAttentionConfig)
class GRUAttention(BlockGRU):
    """See the module's docstring; shapes as in `worldmodel.sequence_models.interface.SequenceModel`."""

    memory: EpisodicMemory

    @classmethod
    def make(cls, config: Any, attention: Any, stoch: int, action: int, quantum: Any) -> Self:
        model = super().make(config, attention, stoch, action, quantum)
        heads = config.memory // config.head
        attends = make_attention(attention, heads, config.head, config.window, quantum)
        widths = config.deter, stoch, action, config.memory, config.memory_hidden
        model.memory = EpisodicMemory(attends, *widths, config.window, config.filled, attention.damped)
        return model

    def inspect(self, h: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> list[LayerView]:
        return [self.memory.inspect(h, stoch, action, is_first)]

    def schedule(self, update: int) -> None:
        self.memory.block.attention.schedule(update)

    def native_rollout(self, state: Tensor, memory: Any, horizon: int) -> native.GRURollout | None:
        recurrence = super().native_rollout(state, memory, horizon)
        reads = self.memory.native_rollout(memory, horizon)
        return None if recurrence is None or reads is None else recurrence._replace(memory=reads)

    def native_filter(self, memory: Any) -> native.Recurrence | None:
        recurrence, reading = super().native_filter(memory), self.memory.native_filter(memory)
        return None if recurrence is None or reading is None else recurrence._replace(reading=reading)
