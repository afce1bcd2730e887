"""`ffm`: traces that decay and turn (Fast and Forgetful Memory, Morad et al., NeurIPS 2023).

No query is compared with a key. Each of a head's d values, let in by a gate, is kept in c complex traces, and
a linear map reads all of them (Re and Im of all traces are one vector):

    S_n = γ ⊙ S_{n−1} + (v_n ⊙ σ(k_n)) ⊗ 1_c,   γ_jl = exp(−α_j − iω_l)
    o_n = norm(W [Re S_n, Im S_n] + b) ⊙ σ(q_n)

α and ω learn, as logarithms. Their output gate also lets the input pass: here the block's residual does.
The control of `born`, whose state fades and turns too but is asked by an overlap.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.configs.schema import Int, settings
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig
from qdreamer.worldmodel.attention.kernel import RecurrentKernel
from qdreamer.worldmodel.networks.layers import init_weight

LONGEST = 1024
"""Steps after which the slowest trace has a hundredth of what it had, at first; and the longest period."""

FASTEST = 0.67
"""The largest α at first: the authors' limit, below which e^{1024·α} is a float64."""


@settings
class FFMConfig(AttentionConfig):
    frequencies: Int = Field(ge=1, le=1024)  # c


@ATTENTION.register("ffm", FFMConfig)
class FFM(RecurrentKernel):
    """See the module's docstring. A state is (B, h, d, c, 2), real and imaginary parts.

    Args:
        frequencies: c.
    """

    compares = False

    def __init__(self, heads: int, width: int, frequencies: int = 4) -> None:
        super().__init__(heads, width)
        rates = torch.linspace(math.log(100.0) / LONGEST, FASTEST, heads * width)
        self.log_rate = nn.Parameter(rates.log().view(heads, width, 1))  # log α
        periods = torch.linspace(1.0, LONGEST, frequencies)
        self.log_frequency = nn.Parameter((2.0 * math.pi / periods).log())  # log ω
        self.weight = nn.Parameter(torch.empty(heads, width * frequencies * 2, width))
        self.bias = nn.Parameter(torch.zeros(heads, 1, width))
        init_weight(self.weight, width * frequencies * 2)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """log of what is left of each step, a mean over traces; only for looking inside."""
        m = torch.arange(k.shape[2], device=k.device)
        distance = (m[-q.shape[2] :].unsqueeze(-1) - m).clamp(min=0).to(q)  # (N, M)
        left = F.logsigmoid(k).unsqueeze(2) - self.log_rate.exp().mT.unsqueeze(1) * distance.unsqueeze(-1)
        return left.logsumexp(-1)

    def initial(self, batch: int, values: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, self.heads, values, len(self.log_frequency), 2)

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
        """As every recurrent kind's. Raises ValueError for gates and dropout: there are no weights."""
        if log_decay is not None or dropout:
            raise ValueError("ffm has neither decay gates nor dropout")
        return self._read(q, self._states(k, v, segments, valid, state)[:, :, 1:])

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
        steps = asking.shape[2]
        traces = self._states(k, v, segments, None, state, v.shape[2] - steps)
        goes_on = F.pad(segments, (1, 0)).diff(dim=1)[:, -steps:] == 0  # (B, T)
        before = traces[:, :, :-1] * goes_on[:, None, :, None, None]
        both = torch.cat([q[:, :, -steps:], asking], 2), torch.cat([traces[:, :, 1:], before], 2)
        return self._read(*both)

    def step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Tensor,
        log_decay: Tensor | None = None,
        is_first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        traces = torch.view_as_complex(state)  # (B, h, d, c)
        if is_first is not None:
            traces = traces * (is_first <= 0.5)[:, None, None, None]
        traces = traces * self._kept(v.new_ones(1)) + (v * k.sigmoid()).unsqueeze(-1)
        state = torch.view_as_real(traces)
        return self.read(q, state), state

    def read(self, q: Tensor, state: Tensor) -> Tensor:
        return self._read(q.unsqueeze(2), torch.view_as_complex(state).unsqueeze(2)).squeeze(2)

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
        return torch.view_as_real(self._states(k, v, segments, None, state, first)[b, :, t + 1 - first])

    def _read(self, q: Tensor, traces: Tensor) -> Tensor:
        """Queries (B, h, N, d), traces (B, h, N, d, c) → outputs (B, h, N, d)."""
        found = torch.view_as_real(traces).flatten(-3) @ self.weight + self.bias
        return F.layer_norm(found, (self.width,)) * q.sigmoid()

    def _kept(self, steps: Tensor) -> Tensor:
        """γ to the power of so many steps (n,), (n, h, d, c)."""
        rate, frequency = self.log_rate.exp(), self.log_frequency.exp()
        steps = steps.view(-1, 1, 1, 1)
        return torch.polar((-steps * rate).exp().expand(-1, -1, -1, len(frequency)), -steps * frequency)

    def _states(
        self,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None,
        valid: Tensor | None,
        state: Tensor | None,
        first: int = 0,
    ) -> Tensor:
        """Return the traces before step `first` of N and after it and all later ones, (B, h, …, d, c).

        A scan (Hillis & Steele 1986): with every pass the sums reach twice as far back, within the episode.
        """
        written = v * k.sigmoid()
        if valid is not None:
            written = written * valid[:, None, :, None]
        if segments is None:
            segments = torch.zeros(v.shape[0], v.shape[2], dtype=torch.long, device=v.device)
        number = F.pad(segments, (1, 0))[:, first:]  # (B, 1 + N − first)
        before = self.initial(v.shape[0], self.width, v) if state is None else state
        before = torch.view_as_complex(before)
        if first:
            before = self._sum(written[:, :, :first], segments[:, :first], before)
        traces = written[:, :, first:].unsqueeze(-1).expand(-1, -1, -1, -1, before.shape[-1])
        traces = torch.cat([before.unsqueeze(2), traces], 2)
        reach = 1
        while reach < traces.shape[2]:
            same = (number[:, reach:] == number[:, :-reach])[:, None, :, None, None]
            older = traces[:, :, :-reach] * self._kept(v.new_tensor([reach])).transpose(0, 1) * same
            traces = torch.cat([traces[:, :, :reach], traces[:, :, reach:] + older], 2)
            reach *= 2
        return traces

    def _sum(self, written: Tensor, segments: Tensor, before: Tensor) -> Tensor:
        """Return the traces (B, h, d, c) after N steps, of which (B, h, N, d) was written."""
        ages = torch.arange(written.shape[2], -1, -1, device=written.device).to(written)  # one more: `before`
        kept = self._kept(ages)
        written = written * (segments == segments[:, -1:])[:, None, :, None]
        new = torch.einsum("bhnd,nhdl->bhdl", written, torch.view_as_real(kept[1:]).flatten(-2))
        old = before * kept[0] * (segments[:, -1] == 0)[:, None, None, None]
        return torch.view_as_complex(new.unflatten(-1, (-1, 2))) + old
