"""Typed settings of the world model. Values live in configs/world_model."""

from typing import Annotated

from pydantic import Field

from qdreamer.configs.schema import Bool, ByPath, Float, Int, check_keys, settings
from qdreamer.worldmodel.networks.image import ImageConfig
from qdreamer.worldmodel.sequence_models.interface import Posterior

LOSSES = ("observation", "reward", "continue", "dynamics", "representation")


@settings
class WorldModelConfig:
    """Widths, depths and loss weights (S, K and units are DreamerV3's)."""

    lr: Float = Field(gt=0.0)  # proposals that `optimizer` takes over
    warmup: Int = Field(ge=0)
    units: Int = Field(ge=1)
    deter: Int = Field(ge=1)  # D of the GRU; this and the next six are what `sequence` takes over
    core: Int = Field(ge=1)  # D of the GRU with attention memory
    hidden: Int = Field(ge=1)
    blocks: Int = Field(ge=1)
    width: Int = Field(ge=1)  # D of the transformer
    depth: Int = Field(ge=1)  # its layers
    memory: Int = Field(ge=2)  # E of attention memory
    stoch: Int = Field(ge=1)  # S, number of latent variables
    classes: Int = Field(ge=2, le=256)  # K, classes of each; replay keeps bytes
    posterior: Posterior
    standardize: Bool  # vector observations by their running moments, before symlog
    encoder_layers: Int = Field(ge=1)
    decoder_layers: Int = Field(ge=0)
    reward_layers: Int = Field(ge=0)
    continue_layers: Int = Field(ge=0)
    prior_layers: Int = Field(ge=0)
    posterior_layers: Int = Field(ge=1)
    bins: Int = Field(ge=3)
    unimix: Float = Field(ge=0.0, le=0.5)
    free_nats: Float = Field(ge=0.0)
    horizon: Float = Field(gt=1.0)  # effective discount horizon, γ = 1 − 1/horizon
    loss_scales: dict[str, Annotated[Float, Field(ge=0.0)]]  # exactly the keys LOSSES
    entry_scales: ByPath[Annotated[Float, Field(ge=0.0)]]  # of entries of the observation, beside each other
    image: ImageConfig  # of entries that are images

    def __post_init__(self) -> None:
        check_keys("world_model.loss_scales", self.loss_scales, LOSSES)
