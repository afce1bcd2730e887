"""`coherent`: overlaps of coherent states of light (quantum-inspired).

A head's d features are d/2 complex modes α, each a coherent state |α⟩ (Glauber 1963). Born's rule gives
the probability to find the key's state when the query's was prepared,

    |⟨α|β⟩|² = exp(−|α − β|²) = exp(2α·β − |α|² − |β|²).

Queries and keys are unit vectors times s, so that both norms are s², the mean number of photons, and
cancel in the normalised weights: softmax(2s² cos∠(α, β)), one call of SDPA. s² is learned per head;
it is an inverse temperature: more photons tell states better apart. Rotary phases (`rotary.py`) are the
modes' free evolution.
"""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qdreamer.configs.schema import Float, settings
from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention.config import ATTENTION, ScheduledConfig
from qdreamer.worldmodel.attention.kernel import unit
from qdreamer.worldmodel.attention.softmax import DotProduct

PHOTONS = (0.25, 256.0)
"""Range of s²: log κ lies within ±2s²."""
_LOG_PHOTONS = math.log(PHOTONS[0]), math.log(PHOTONS[1])


@settings
class CoherentConfig(ScheduledConfig):
    noise: Float = Field(ge=0.0, le=1.0)  # depolarizing, in training


@ATTENTION.register("coherent", CoherentConfig)
class Coherent(DotProduct):
    """See the module's docstring. Starts at s² = d, a memory at √d/2 (`soften`), clamped to PHOTONS.

    The SDPA form needs |q| = |k|: the zero vector, which cannot be scaled to s, has log κ = 0.
    """

    quantum = True

    def __init__(self, heads: int, width: int, noise: float = 0.0) -> None:
        super().__init__(heads, width, noise)
        self.log_photons = nn.Parameter(torch.full((heads,), math.log(width)))

    def soften(self) -> None:
        # The cosine of two random directions deviates by 1/√d: with s² = √d/2 the logits 2s²·cos by 1.
        nn.init.constant_(self.log_photons, math.log(math.sqrt(self.width) / 2.0))

    def photons(self) -> Tensor:
        """s², the mean photon number of each head, (h)."""
        clamp = _Clamp.apply if torch.is_grad_enabled() else torch.clamp
        return clamp(self.log_photons, *_LOG_PHOTONS).exp()

    def encode(self, x: Tensor) -> Tensor:
        return unit(x)

    def head_numbers(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        return {"photons": self.photons()}

    def native_form(self, learning: bool) -> AttentionForm | None:
        return None if learning and self.noise else AttentionForm(2.0 * self.photons(), normalized=True)

    def scale(self) -> Tensor:
        return 2.0 * self.photons()[:, None, None]

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        # The whole of 2s² on the queries, none on the keys: the same products, less work.
        return unit(q, self.scale()), unit(k), 1.0


@ATTENTION.register("random_keys", CoherentConfig)
class RandomKeys(Coherent):
    """`random_keys`: a control as `uniform`, whose keys come from a random projection that never learns."""

    learned_keys = False


class _Clamp(torch.autograd.Function):
    """Clamp whose gradient vanishes only where descent would lead further out: nothing gets stuck."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.range = inputs
        ctx.save_for_backward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.range
        outwards = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
        return grad.masked_fill(outwards, 0.0), None, None
