"""The sequence models by their configs."""

from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.config import AttentionConfig, CircuitConfig, SoftmaxConfig
from qdreamer.worldmodel.attention.curriculum import mix_at
from qdreamer.worldmodel.attention.kinds import make_kind
from qdreamer.worldmodel.attention.softmax import Softmax
from qdreamer.worldmodel.config import GRUConfig, SequenceConfig, TransformerConfig
from qdreamer.worldmodel.sequence_models.context import (
    CausalAttention,
    KeyValueAttention,
    RecurrentAttention,
)
from qdreamer.worldmodel.sequence_models.gru import BlockGRU
from qdreamer.worldmodel.sequence_models.interface import SequenceModel
from qdreamer.worldmodel.sequence_models.mixed_attention import MixedAttention
from qdreamer.worldmodel.sequence_models.transformer import Transformer


def make_sequence(
    config: SequenceConfig,
    attention: AttentionConfig,
    stoch: int,
    action: int,
    quantum: QuantumConfig | None = None,
) -> SequenceModel:
    """The sequence model for latents of S·K numbers and actions of A; `quantum` runs its circuits."""
    if isinstance(config, GRUConfig):
        return BlockGRU(stoch, action, config.deter, config.hidden, config.blocks, config.layers)
    return Transformer(
        [make_attention(attention, config, quantum) for _ in range(config.layers)],
        stoch,
        action,
        config.deter,
        config.heads,
        config.head,
        config.hidden,
        config.window,
        attention.decay,
    )


def make_attention(
    config: AttentionConfig, sequence: TransformerConfig, quantum: QuantumConfig | None = None
) -> CausalAttention:
    """One layer's attention."""
    settings = config.settings() | ({"quantum": quantum} if isinstance(config, CircuitConfig) else {})
    kind = make_kind(config.name, sequence.heads, sequence.head, **settings)
    attention: CausalAttention
    if isinstance(kind, Born) and kind.linear:
        attention = RecurrentAttention(kind)
    else:
        attention = KeyValueAttention(kind, sequence.window)
    if isinstance(config, SoftmaxConfig) or not config.curriculum.used:
        return attention
    schedule = config.curriculum
    return MixedAttention(
        KeyValueAttention(Softmax(sequence.heads, sequence.head), sequence.window),
        attention,
        lambda update: mix_at(
            update, schedule.start, schedule.length, schedule.ramp, schedule.first, schedule.last
        ),
    )
