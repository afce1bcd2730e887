"""Entries that are images: how they are scaled, encoded and predicted (DreamerV3, appendix B).

Each of the encoder's convolutions halves the sides until they are about 4; the decoder doubles them again, to
just the sizes that the encoder went through. So grids of 7×7 and frames of 64×64 take the same networks, of
one and of four layers. Tensors stay H×W×C in memory (channels_last).
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.configs.schema import Float, Int, check_keys, settings
from qdreamer.envs.entries import Image
from qdreamer.worldmodel.networks.entry import NETWORKS, EntryNetworks, Gather, Normalizer
from qdreamer.worldmodel.networks.layers import Linear, MLPHead, NormSiLU, init_weight
from qdreamer.worldmodel.networks.vector import MeanSquare

Objective = Literal["pixels", "redundancy"]
OBJECTIVES = get_args(Objective)
LAST = 6  # sides that are not halved any more
DEPTHS = (2, 3, 4, 4)  # channels of the encoder's layers, times `depth`; the last goes on


@settings
class ImageConfig:
    """Encoder and decoder of images."""

    depth: Int = Field(ge=1, le=512)  # channels, see DEPTHS
    kernel: Int = Field(ge=2, le=32)
    objective: Objective  # what the decoder predicts: the image, or its embedding
    redundancy: Float = Field(ge=0.0)  # λ of the latter, see `Agreement`
    scale: dict[str, Annotated[Float, Field(ge=0.0)]]  # of an image's loss, by objective

    def __post_init__(self) -> None:
        check_keys("world_model.image.scale", self.scale, OBJECTIVES)


class Brightness(Normalizer):
    """Bytes (…, H, W, C) → [0, 1], by the largest value that each channel has had.

    That is 255 for most frames. Grids whose channels are small integers (MiniGrid's kinds of objects), which
    division by 255 would hide, fill the range as well.
    """

    largest: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("largest", torch.ones(channels))

    def forward(self, observation: Tensor) -> Tensor:
        return observation.to(self.largest.dtype) * (1.0 / self.largest)

    def target(self, observation: Tensor) -> Tensor:
        return self(observation)

    def deviation(self) -> Tensor:
        return self.largest.new_tensor(0.1)  # about that of pixels

    @torch.no_grad()
    def update(self, observation: Tensor, gather: Gather) -> None:
        """Look at all that is learned from: a channel that gets bright would make one enormous loss."""
        # All steps at once pixel by pixel, then all pixels: four times as fast as by channel.
        seen = observation.flatten(0, 1).amax(0).amax((0, 1)).to(self.largest.dtype)  # (C,)
        self.largest.copy_(torch.maximum(self.largest, gather(seen[None]).amax(0)))


class NormSiLU2d(NormSiLU):
    """RMSNorm over the channels of each pixel, then SiLU: (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Conv2d(nn.Conv2d):
    """A convolution with DreamerV3's initialisation, whose weights lie as channels_last inputs want them."""

    bias: Tensor

    def reset_parameters(self) -> None:
        init_weight(self.weight, self.weight[0].numel())
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)
        self.bias.data.zero_()


def sides(height: int, width: int) -> list[tuple[int, int]]:
    """Return the sizes that an image goes through, from its own to the last, at least one smaller."""
    sizes = [(height, width)]
    while len(sizes) == 1 or max(sizes[-1]) > LAST:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def channels(depth: int, layers: int) -> list[int]:
    """Return the channels that each of the layers makes."""
    return [depth * DEPTHS[min(i, len(DEPTHS) - 1)] for i in range(layers)]


def halving(size: tuple[int, int], before: int, after: int, kernel: int) -> nn.Sequential:
    """Return the layer that halves the sides of images of `size`, rounded up."""
    missing = [max((-(-side // 2) - 1) * 2 + kernel - side, 0) for side in size]  # of H, W
    padding, odd = (missing[0] // 2, missing[1] // 2), [whole % 2 for whole in missing]
    conv = Conv2d(before, after, kernel, 2, padding)
    pad = [nn.ZeroPad2d((0, odd[1], 0, odd[0]))] if any(odd) else []
    return nn.Sequential(*pad, conv, NormSiLU2d(after))


class ImageEncoder(nn.Sequential):
    """Scaled images (B, T, H, W, C) → embeddings (B, T, width): all pixels of the last, smallest image."""

    def __init__(self, spec: Image, config: ImageConfig) -> None:
        sizes = sides(spec.height, spec.width)
        depths = channels(config.depth, len(sizes) - 1)
        layers = zip(sizes, pairwise([spec.channels, *depths]), strict=False)
        super().__init__(*(halving(size, *numbers, config.kernel) for size, numbers in layers))
        self.width = sizes[-1][0] * sizes[-1][1] * depths[-1]

    def forward(self, scaled: Tensor) -> Tensor:
        x = super().forward(scaled.flatten(0, 1).permute(0, 3, 1, 2))  # (N, C, H, W), a view
        return x.permute(0, 2, 3, 1).reshape(*scaled.shape[:2], -1)


class ImageHead(nn.Module):
    """Features (…, F) → a scaled image (…, H, W, C)."""

    def __init__(self, spec: Image, features: int, config: ImageConfig) -> None:
        super().__init__()
        self.sizes = sides(spec.height, spec.width)[::-1]
        depths = channels(config.depth, len(self.sizes) - 1)[::-1]
        (height, width), depth = self.sizes[0], depths[0]
        self.first = Linear(features, height * width * depth)
        self.norm = NormSiLU2d(depth)
        # Each but the last doubles the sides of what it is given; the last makes four pixels of each.
        self.parts = nn.ModuleList(
            nn.Sequential(Conv2d(before, after, 3, padding=1), NormSiLU2d(after))
            for before, after in pairwise(depths)
        )
        self.out = Conv2d(depths[-1], 4 * spec.channels, 3, padding=1)
        self.out.weight.data.mul_(0.1)  # an image begins as almost even grey
        self.out.bias.data.fill_(0.5)

    def forward(self, features: Tensor) -> "Pixels":
        height, width = self.sizes[0]
        x = self.first(features.flatten(0, -2)).unflatten(-1, (height, width, -1)).permute(0, 3, 1, 2)
        x = self.norm(x)
        for part, (height, width) in zip(self.parts, self.sizes[1:-1], strict=True):
            x = part(F.interpolate(x, scale_factor=2.0)[..., :height, :width])
        fours = self.out(x).permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))  # (N, H/2, W/2, 2, 2, C)
        height, width = self.sizes[-1]
        image = fours.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return Pixels(image.unflatten(0, features.shape[:-1]))


class Pixels(MeanSquare):
    """Squared error, summed over the pixels (…, H, W, C) (DreamerV3, eq. 8)."""

    def loss(self, target: Tensor) -> Tensor:
        return (self.mean - target).square().sum((-3, -2, -1))


class EmbeddingHead(MLPHead):
    """Features (…, F) → a projection that is to agree with the embedding (…, E): there is no decoder.

    R2-Dreamer (Morihira et al., 2026), after Barlow Twins (Zbontar et al., 2021).
    """

    by_sequence = False  # its loss is one of the whole batch

    def __init__(self, features: int, width: int, redundancy: float) -> None:
        super().__init__(features, 0, 0, width)
        self.redundancy = redundancy

    def forward(self, features: Tensor) -> "Agreement":
        return Agreement(super().forward(features), self.redundancy)


class Agreement:
    """Correlations over a batch between a projection and its target: 1 of each number, 0 between two.

    Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², with C over all rows of this process; every row has this loss.
    """

    def __init__(self, projection: Tensor, redundancy: float) -> None:
        self.projection, self.redundancy = projection, redundancy

    def loss(self, target: Tensor) -> Tensor:
        one, two = (_standardized(x.flatten(0, -2)) for x in (self.projection, target))  # (R, E)
        correlation = one.t() @ two / len(one)
        own = correlation.diagonal()
        others = correlation.square().sum() - own.square().sum()
        return ((1.0 - own).square().sum() + self.redundancy * others).expand(target.shape[:-1])


def _standardized(x: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(x, 0, correction=0)
    return (x - mean) / (deviation + 1e-6)


def _decoder(spec: Image, config: Any, features: int) -> nn.Module:
    image: ImageConfig = config.image
    if image.objective == "pixels":
        return ImageHead(spec, features, image)
    return EmbeddingHead(features, ImageEncoder(spec, image).width, image.redundancy)


NETWORKS[Image] = EntryNetworks(
    normalizer=lambda spec, config: Brightness(spec.channels),
    encoder=lambda spec, config: ImageEncoder(spec, config.image),
    decoder=_decoder,
    scale=lambda config: config.image.scale[config.image.objective],
)
