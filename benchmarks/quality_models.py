"""World models with different sequence models and equally many parameters.

All have the same encoder, latents and heads. The transformers have two layers of width 64; the GRUs, with
and without attention memory, take the width D whose total is nearest to the softmax transformer's. Only
`gru-narrow` is smaller: a GRU as wide as the one beside a memory.
"""

from collections.abc import Mapping
from functools import cache

import torch

from benchmarks.attention_references import EluLinear
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import Spec
from qdreamer.worldmodel.sequence_models.context import RecurrentAttention
from qdreamer.worldmodel.sequence_models.transformer import Transformer

# One weight for all, DreamerV3's: else more than the sequence model would differ.
SHARED = (
    *("agent=classical", "world_model.units=64", "world_model.hidden=64", "world_model.blocks=1"),
    "world_model.loss_scales.representation=0.1",
)
TRANSFORMER = ("sequence=transformer", "world_model.width=64", "world_model.depth=2")
GRU = ("sequence=gru", "world_model.posterior=coupled")
MEMORY = ("sequence=gru_attention", "world_model.posterior=coupled", "world_model.memory=32")
HEADS = ("sequence.heads=4", "sequence.head=16")
SETTINGS = {
    "gru": GRU,
    "gru-decoupled": ("sequence=gru", "world_model.posterior=decoupled"),
    "gru-narrow": GRU,
    "gru-attention": (*MEMORY, "attention=coherent"),
    "gru-attention-softmax": (*MEMORY, "attention=softmax"),
    "softmax": (*TRANSFORMER, "attention=softmax", *HEADS),
    "coherent": (*TRANSFORMER, "attention=coherent", *HEADS),
    "born": (*TRANSFORMER, "attention=born"),  # its own eight heads of 8
    "elu-linear": (*TRANSFORMER, "attention=born", *HEADS),  # with the decay gate, as born
}
ATTENTIONS = ("softmax", "coherent", "born", "elu-linear")


def build(kind: str, observation: Mapping[str, Spec], action: ActionSpec, window: int, seed: int) -> Dreamer:
    """An agent whose world model is of the `kind`; its actor and critic are of no use here."""
    more = []
    if kind.startswith("gru"):
        like = "gru-attention" if kind == "gru-narrow" else kind
        more.append(f"sequence.deter={_width(like, tuple(observation.items()), action)}")
    if not kind.startswith("gru") or "attention" in kind:
        more.append(f"sequence.window={window}")
    return _agent(kind, tuple(more), observation, action, seed)


def parameters(agent: Dreamer) -> int:
    """Trainable ones of the world model."""
    return sum(p.numel() for p in agent.world_model.parameters() if p.requires_grad)


def _agent(
    kind: str, more: tuple[str, ...], observation: Mapping[str, Spec], action: ActionSpec, seed: int
) -> Dreamer:
    config: Config = load_config([*SHARED, *SETTINGS[kind], *more])
    torch.manual_seed(seed)
    agent = make_dreamer(config, observation, action)
    if kind == "elu-linear":
        sequence = agent.world_model.rssm.sequence
        assert isinstance(sequence, Transformer)
        for block in sequence.layers():
            block.attention = RecurrentAttention(EluLinear(block.heads, sequence.head))
    return agent


@cache
def _width(kind: str, observation: tuple[tuple[str, Spec], ...], action: ActionSpec) -> int:
    """D of the GRU with as many parameters as the softmax transformer."""
    wanted = parameters(build("softmax", dict(observation), action, 64, 0))
    low, high = 32, 144

    def count(width: int) -> int:
        return parameters(_agent(kind, (f"sequence.deter={width}",), dict(observation), action, 0))

    while high - low > 4:
        middle = (low + high) // 8 * 4
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return min((low, high), key=lambda width: abs(count(width) - wanted))
