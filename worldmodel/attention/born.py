"""`born`: overlaps of qubit states (quantum-inspired).

Queries and keys are amplitude-encoded in log₂ d qubits; the weights are Born's rule with a floor,

    κ = |⟨φ(q)|φ(k)⟩|² + f,   an exact kernel of degree two,

so that attention has three equal forms: parallel (`attend`), chunked (`attend_causal`, linear in N) and
recurrent (`step`, constant cost and memory per step). The floor is a depolarizing channel on the query
(`encodings.py`), the decay gate is damping (`decay.py`), rotary phases are unitary evolution.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from qdreamer.configs.schema import Bool, Float, settings
from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention import born_forms
from qdreamer.worldmodel.attention.born_forms import Steps, lengths, ratio, with_one
from qdreamer.worldmodel.attention.config import ATTENTION, ScheduledConfig
from qdreamer.worldmodel.attention.encodings import ComplexAmplitudes, Encoding, Overlaps, RealAmplitudes
from qdreamer.worldmodel.attention.kernel import RecurrentKernel, unit

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


@ATTENTION.register("born", BornConfig)
class Born(RecurrentKernel):
    """See the module's docstring.

    Args:
        floor: f. Without it the denominators nearly vanish and float32 loses all digits.
        complex: d/2 complex amplitudes instead of d real ones.
        overlaps: another way to measure the overlaps, such as a circuit; in the parallel form only.
    Raises ValueError for f < 1e-3, or an odd width when complex.
    """

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
        self.encoding: Encoding = (ComplexAmplitudes if complex else RealAmplitudes)(width, floor)
        self.measured = overlaps is not None
        self.overlaps: Overlaps = overlaps or self.encoding.overlaps

    def encode(self, x: Tensor) -> Tensor:
        return unit(x)

    def native_form(self, learning: bool) -> AttentionForm | None:
        if self.measured or not self.encoding.real or (learning and self.noise):
            return None
        return AttentionForm(torch.ones(self.heads), normalized=True, floor=self.encoding.floor)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return self._kernel(self.overlaps, q, k).log()

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
            return super().attend_causal(q, k, v, segments, valid, log_decay, dropout, generator, state)
        steps = Steps(self.encode(k), v, segments, valid, log_decay)
        out = born_forms.chunked(self.encode(q), steps, self.encoding, state)
        if self.training and self.noise:
            ones = v.new_ones(*v.shape[:-1], 1)  # states that are all the same: the mean of the values so far
            mean = born_forms.chunked(ones, Steps(ones, v, segments, valid), RealAmplitudes(1, 0.0))
            out = out.lerp(mean, self.noise)
        return out

    def recall(
        self,
        q: Tensor,
        asking: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor,
        log_decay: Tensor | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        # In turns, asking first; whoever only asks is seen by nobody, and nothing fades meanwhile.
        steps, stored = asking.shape[2], v.shape[2] - asking.shape[2]

        def turns(asks: Tensor, stays: Tensor, dim: int = 2) -> Tensor:
            old, new = stays.split([stored, steps], dim)
            return torch.cat([old, torch.stack([asks, new], dim + 1).flatten(dim, dim + 1)], dim)

        q, k, v = turns(asking, q), turns(k[:, :, stored:], k), turns(v[:, :, stored:], v)
        valid = turns(torch.zeros_like(segments[:, stored:]), torch.ones_like(segments), 1).bool()
        if log_decay is not None:
            log_decay = turns(torch.zeros_like(log_decay[..., stored:]), log_decay)
        segments = turns(segments[:, stored:], segments, 1)
        out = self.attend_causal(q, k, v, segments, valid, log_decay, state=state)
        before, itself = out[:, :, stored:].unflatten(2, (steps, 2)).unbind(3)
        return torch.cat([itself, before], 2)

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
        keep = None if log_decay is None else log_decay.exp()
        if is_first is not None:
            fresh = (is_first <= 0.5).to(state.dtype).unsqueeze(-1)  # (B, 1)
            keep = fresh if keep is None else keep * fresh
        if keep is not None:
            state = state * keep[..., None, None]
        made = self.encoding.features(self.encode(k).unsqueeze(-1)), with_one(v).unsqueeze(-2)
        state = torch.addcmul(state, *made) if keep is None else state.addcmul_(*made)
        return self.read(q, state), state

    def read(self, q: Tensor, state: Tensor) -> Tensor:
        """What queries (B, h, d) find in a state of the recurrent form: outputs (B, h, dv)."""
        query = self.encoding.features(self.encode(q).unsqueeze(-1))
        return ratio(self.encoding.read(query, state)).squeeze(-2)

    def state_at(
        self,
        k: Tensor,
        v: Tensor,
        b: Tensor,
        t: Tensor,
        segments: Tensor | None = None,
        log_decay: Tensor | None = None,
        state: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """States after steps t (n,) of rows b (n,), (n, h, φ, dv + 1); other shapes as in `attend_causal`."""
        steps = Steps(self.encode(k), v, segments, None, log_decay)
        return born_forms.state_at(steps, self.encoding, b, t, state)

    def _kernel(self, overlaps: Overlaps, q: Tensor, k: Tensor) -> Tensor:
        """κ of encoded queries and keys."""
        return overlaps(q, k) + self.encoding.floor * lengths(k)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, dropout: float
    ) -> Tensor:
        kernel = self._kernel(self.overlaps, self.encode(q), self.encode(k))  # (B, h, N, M)
        if bias is not None:
            most = bias.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(bias.dtype).min)
            kernel = kernel * (bias - most).exp()
        if mask is not None:
            kernel = kernel * mask
        if not dropout:
            return ratio(kernel @ with_one(v))
        total = kernel.sum(-1, keepdim=True)
        return F.dropout(kernel / total.where(total > 0, 1.0), dropout) @ v
