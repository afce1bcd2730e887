"""Typed settings of the world model. Values live in configs/world_model and configs/sequence."""

from dataclasses import dataclass, field

POSTERIORS = ("coupled", "decoupled")
LOSSES = ("observation", "reward", "continue", "dynamics", "representation")


@dataclass(frozen=True)
class WorldModelConfig:
    """Widths, depths and loss weights (S, K, units as in the design's vocabulary)."""

    lr: float = field(metadata={"above": 0.0})  # proposals that `optimizer` takes over
    warmup: int = field(metadata={"min": 0})
    units: int = field(metadata={"min": 1})
    deter: int = field(
        metadata={"min": 1}
    )  # D of the GRU; this and the next three are what `sequence` takes over
    hidden: int = field(metadata={"min": 1})
    blocks: int = field(metadata={"min": 1})
    width: int = field(metadata={"min": 1})  # D of the transformer
    depth: int = field(metadata={"min": 1})  # its layers
    stoch: int = field(metadata={"min": 1})  # S, number of latent variables
    classes: int = field(metadata={"min": 2, "max": 256})  # K, classes of each; replay keeps bytes
    posterior: str = field(metadata={"choices": POSTERIORS})
    standardize: bool  # vector observations by their running moments, before symlog
    encoder_layers: int = field(metadata={"min": 1})
    decoder_layers: int = field(metadata={"min": 0})
    reward_layers: int = field(metadata={"min": 0})
    continue_layers: int = field(metadata={"min": 0})
    prior_layers: int = field(metadata={"min": 0})
    posterior_layers: int = field(metadata={"min": 1})
    bins: int = field(metadata={"min": 3})
    unimix: float = field(metadata={"min": 0.0, "max": 0.5})
    free_nats: float = field(metadata={"min": 0.0})
    horizon: float = field(metadata={"above": 1.0})  # effective discount horizon, γ = 1 − 1/horizon
    loss_scales: dict[str, float] = field(metadata={"min": 0.0})  # exactly the keys LOSSES

    def __post_init__(self) -> None:
        check_keys("world_model.loss_scales", self.loss_scales, LOSSES)


@dataclass(frozen=True)
class GRUConfig:
    """The block GRU."""

    name: str = field(metadata={"choices": ("gru",)})
    posterior: str = field(metadata={"choices": POSTERIORS})  # what `world_model.posterior` takes over
    deter: int = field(metadata={"min": 1})  # D
    hidden: int = field(metadata={"min": 1})
    blocks: int = field(metadata={"min": 1})
    layers: int = field(metadata={"min": 1})

    def __post_init__(self) -> None:
        if self.deter % self.blocks:
            raise ValueError(
                f"sequence.deter={self.deter} must be a multiple of sequence.blocks={self.blocks}"
            )


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer; what attends is in the `attention` section."""

    name: str = field(metadata={"choices": ("transformer",)})
    posterior: str = field(metadata={"choices": POSTERIORS})
    deter: int = field(metadata={"min": 1})  # D, the width of its tokens
    heads: int = field(metadata={"min": 1})  # h
    head: int = field(metadata={"min": 2})  # d, the width of a head
    hidden: int = field(metadata={"min": 1})  # width of the MLPs
    layers: int = field(metadata={"min": 1})
    window: int = field(metadata={"min": 2})  # steps that a step sees, itself included

    def __post_init__(self) -> None:
        if self.head % 2:
            raise ValueError(f"sequence.head={self.head} must be even: rotary phases turn pairs of features")


SequenceConfig = GRUConfig | TransformerConfig


def check_keys(path: str, values: dict[str, float], keys: tuple[str, ...]) -> None:
    """Raises ValueError unless the keys of `values` are exactly `keys`."""
    wrong = sorted(set(values) ^ set(keys))
    if wrong:
        raise ValueError(f"{path} must have exactly the keys {', '.join(keys)}: check {', '.join(wrong)}")
