"""`born`: overlaps of qubit states (quantum-inspired).

Queries and keys are amplitude-encoded in log₂ d qubits; the weights are Born's rule with a floor,

    κ = |⟨φ(q)|φ(k)⟩|² + f,   an exact kernel of degree two,

so that attention has three equal forms: parallel (`attend`), chunked (`attend_causal`, linear in N) and
recurrent (`step`, constant cost and memory per step). The floor is a depolarizing channel on the query
(`encodings.py`), the decay gate is damping (`decay.py`), rotary phases are unitary evolution.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from qdreamer.configs.schema import Bool, Float, settings
from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention import born_forms
from qdreamer.worldmodel.attention.born_forms import Steps
from qdreamer.worldmodel.attention.config import ATTENTION, ScheduledConfig
from qdreamer.worldmodel.attention.encodings import ComplexAmplitudes, Encoding, Overlaps, RealAmplitudes
from qdreamer.worldmodel.attention.kernel import AttentionKernel, unit

LEAST_FLOOR = 1e-3


@settings
class BornConfig(ScheduledConfig):
    noise: Float = Field(ge=0.0, le=1.0)  # depolarizing, in training
    floor: Float = Field(ge=LEAST_FLOOR)  # depolarizing, of the queries
    complex: Bool  # d/2 complex amplitudes instead of d real ones
    decay: Bool  # learned damping: without it the past never fades

    @property
    def damped(self) -> bool:
        return self.decay

    def arguments(self, quantum: Any) -> dict[str, Any]:
        return {"noise": self.noise, "floor": self.floor, "complex": self.complex}


@ATTENTION.register("born", BornConfig)
class Born(AttentionKernel):
    """See the module's docstring.

    Args:
        floor: f. Without it the denominators nearly vanish and float32 loses all digits.
        complex: d/2 complex amplitudes instead of d real ones.
        overlaps: another way to measure the overlaps, such as a circuit; in the parallel form only.
    Raises ValueError for f < 1e-3, or an odd width when complex.
    """

    linear = True
    quantum = True

    def __init__(
        self,
        heads: int,
        width: int,
        noise: float = 0.0,
        floor: float = LEAST_FLOOR,
        complex: bool = False,
        overlaps: Overlaps | None = None,
    ) -> None:
        super().__init__(heads, width, noise)
        if floor < LEAST_FLOOR:
            raise ValueError(f"floor={floor} is below {LEAST_FLOOR}: float32 needs it")
        self.floor = floor
        self.encoding: Encoding = ComplexAmplitudes(width) if complex else RealAmplitudes(width)
        self.measured = overlaps is not None
        self.overlaps: Overlaps = overlaps or self.encoding.overlaps

    def encode(self, x: Tensor) -> Tensor:
        return unit(x)

    def native_form(self, learning: bool) -> AttentionForm | None:
        if self.measured or not self.encoding.real or (learning and self.noise):
            return None
        return AttentionForm(torch.ones(self.heads), normalized=True, floor=self.floor)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return self._kernel(q, k).log()

    def attend_causal(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None = None,
        valid: Tensor | None = None,
        log_decay: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """As every kind's; `state` (B, h, φ, dv + 1) is what went before, and episode 0 continues it.

        Raises ValueError when dropout or measured overlaps, which need all pairs, meet a state.
        """
        if dropout or self.measured:
            if state is not None:
                raise ValueError("dropout and measured overlaps need all pairs: leave out `state`")
            return super().attend_causal(q, k, v, segments, valid, log_decay, dropout, generator)
        steps = Steps(self.encode(k), v, segments, valid, log_decay)
        out = born_forms.chunked(self.encode(q), steps, self.floor, self.encoding, state)
        if self.training and self.noise:
            out = out.lerp(_mean_so_far(v, segments, valid), self.noise)
        return out

    def initial(self, batch: int, values: int, like: Tensor) -> Tensor:
        """The recurrent form's state of no past, (B, h, φ, values + 1), with the type of `like`."""
        return like.new_zeros(batch, self.heads, self.encoding.size, values + 1)

    def step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Tensor,
        log_decay: Tensor | None = None,
        is_first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step: (B, h, ·) each, log γ (B, h), is_first (B) → output (B, h, dv), new state."""
        return born_forms.step(
            self.encode(q), self.encode(k), v, state, self.floor, self.encoding, log_decay, is_first
        )

    def state_at(
        self,
        k: Tensor,
        v: Tensor,
        b: Tensor,
        t: Tensor,
        segments: Tensor | None = None,
        log_decay: Tensor | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """States after steps t (n,) of rows b (n,), (n, h, φ, dv + 1); other shapes as in `attend_causal`."""
        steps = Steps(self.encode(k), v, segments, None, log_decay)
        return born_forms.state_at(steps, self.encoding, b, t, state)

    def _kernel(self, q: Tensor, k: Tensor) -> Tensor:
        """κ of encoded queries and keys."""
        return self.overlaps(q, k) + self.floor * born_forms.lengths(k)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        dropout: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        kernel = self._kernel(self.encode(q), self.encode(k))  # (B, h, N, M)
        if bias is not None:
            most = bias.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(bias.dtype).min)
            kernel = kernel * (bias - most).exp()
        if mask is not None:
            kernel = kernel * mask
        if not dropout:
            return born_forms.ratio(kernel @ born_forms.with_one(v))
        total = kernel.sum(-1, keepdim=True)
        return F.dropout(kernel / total.where(total > 0, 1.0), dropout) @ v


def _mean_so_far(v: Tensor, segments: Tensor | None, valid: Tensor | None) -> Tensor:
    """Mean of the values that each step may see, (B, h, N, dv): attention with one state for all."""
    ones = v.new_ones(*v.shape[:-1], 1)
    return born_forms.chunked(ones, Steps(ones, v, segments, valid), 0.0, RealAmplitudes(1))
