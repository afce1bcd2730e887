"""Typed settings of the world model. Values live in configs/world_model."""

from typing import Annotated

from pydantic import Field

from qdreamer.configs.schema import DEEPEST, WIDEST, Bool, ByPath, Float, Int, check_keys, settings
from qdreamer.worldmodel.networks.image import ImageConfig
from qdreamer.worldmodel.sequence_models.interface import Posterior

PREDICTED = ("observation", "reward", "continue")
LOSSES = ("observation", "reward", "continue", "dynamics", "representation")


@settings
class WorldModelConfig:
    """Widths, depths and loss weights (S, K and units are DreamerV3's)."""

    lr: Float = Field(gt=0.0, le=10.0)  # proposals that `optimizer` takes over
    warmup: Int = Field(ge=0)
    units: Int = Field(ge=1, le=WIDEST)
    deter: Int = Field(ge=1, le=WIDEST)  # D of the GRU; this and the next six are what `sequence` takes over
    core: Int = Field(ge=1, le=WIDEST)  # D of the GRU with attention memory
    hidden: Int = Field(ge=1, le=WIDEST)
    blocks: Int = Field(ge=1, le=WIDEST)
    width: Int = Field(ge=1, le=WIDEST)  # D of the transformer
    depth: Int = Field(ge=1, le=DEEPEST)  # its layers
    memory: Int = Field(ge=2, le=WIDEST)  # E of attention memory
    stoch: Int = Field(ge=1, le=1024)  # S, number of latent variables
    classes: Int = Field(ge=2, le=256)  # K, classes of each; replay keeps bytes
    posterior: Posterior
    standardize: Bool  # vector observations by their running moments, before symlog
    encoder_layers: Int = Field(ge=1, le=DEEPEST)
    decoder_layers: Int = Field(ge=0, le=DEEPEST)
    reward_layers: Int = Field(ge=0, le=DEEPEST)
    continue_layers: Int = Field(ge=0, le=DEEPEST)
    prior_layers: Int = Field(ge=0, le=DEEPEST)
    posterior_layers: Int = Field(ge=1, le=DEEPEST)
    bins: Int = Field(ge=3, le=10_001)
    unimix: Float = Field(ge=0.0, le=0.5)
    free_nats: Float = Field(ge=0.0)
    horizon: Float = Field(gt=1.0, le=1e9)  # effective discount horizon, γ = 1 − 1/horizon
    loss_scales: dict[str, Annotated[Float, Field(ge=0.0)]]  # exactly the keys LOSSES
    entry_scales: ByPath[Annotated[Float, Field(ge=0.0)]]  # of entries of the observation, beside each other
    image: ImageConfig  # of entries that are images
    gradients: dict[str, Annotated[Float, Field(ge=0.0)]] = Field(  # exactly the keys PREDICTED
        default_factory=lambda: dict.fromkeys(PREDICTED, 1.0)
    )
    checkpointing: Bool = False  # compute encoder, decoder and heads once more instead of keeping them

    def __post_init__(self) -> None:
        check_keys("world_model.loss_scales", self.loss_scales, LOSSES)
        check_keys("world_model.gradients", self.gradients, PREDICTED)
