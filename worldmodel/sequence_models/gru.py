"""Block GRU, DreamerV3's sequence model (Hafner et al. 2025, Methods; danijar/dreamerv3).

    x   = [f(h), f(z), f(a)]                       f = Linear → RMSNorm → SiLU, width `hidden`
    y   = f_block([h_g, x] for each block g)       `layers` times, block-diagonal in h
    r, c, u = gates(y);   h' = σ(u−1)·tanh(σ(r)·c) + (1 − σ(u−1))·h

The part of the first layer that x feeds is repeated for every block, so it is one dense product
[3·hidden → D]; its rows that belong to the action do not depend on the recurrence and are hoisted
out of the time loop (`action_embedding`).
"""

import torch
from torch import Tensor, nn

from qdreamer.native import kernels
from qdreamer.native.processor import INTEL
from qdreamer.native.products import add_blockwise_, affine, affine_add, blockwise
from qdreamer.worldmodel.networks.layers import MLP, BlockLinear, NormSiLU, init_random_bias, init_weight

MANY_ROWS = 128
"""From so many rows on, a CPU is faster when it finishes one block of the gates before the next."""


class BlockGRU(nn.Module):
    """See the module's docstring; shapes as in `worldmodel.sequence_models.interface.SequenceModel`.

    Raises ValueError when `deter` does not divide by `blocks`.
    """

    def __init__(
        self, stoch: int, action: int, deter: int, hidden: int, blocks: int, layers: int = 1
    ) -> None:
        super().__init__()
        self.deter = deter
        self.blocks = blocks
        self.deter_in = MLP(deter, hidden, 1)
        self.stoch_in = MLP(stoch, hidden, 1)
        self.action_in = MLP(action, hidden, 1)
        init_random_bias(self.action_in.layer(0)[0], std=1.0)
        # The reference counts the whole grouped input, repeats included, as fan-in.
        fan_in = deter + blocks * 3 * hidden
        self.recur = BlockLinear(deter, deter, blocks, fan_in)
        self.mix_action = nn.Linear(hidden, deter, bias=False)
        self.mix_state = nn.Linear(2 * hidden, deter, bias=False)
        init_weight(self.mix_action.weight, fan_in)
        init_weight(self.mix_state.weight, fan_in)
        self.norm = NormSiLU(deter)
        self.more = nn.Sequential(
            *(
                part
                for _ in range(layers - 1)
                for part in (BlockLinear(deter, deter, blocks, deter), NormSiLU(deter))
            )
        )
        self.gates = BlockLinear(deter, 3 * deter, blocks, deter)

    def initial(self, batch: int) -> Tensor:
        return self.norm.scale.new_zeros(batch, self.deter)

    def action_embedding(self, action: Tensor, is_first: Tensor | None) -> Tensor:
        if is_first is not None:
            action = action * (1.0 - is_first).unsqueeze(-1)
        # Actions of any size enter with magnitude at most 1, as in the reference.
        action = action / action.detach().abs().clamp(min=1.0)
        return self.mix_action(self.action_in(action)) + self.recur.bias

    def step(
        self,
        stoch: Tensor,
        action_embedding: Tensor,
        is_first: Tensor | None,
        state: Tensor,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if is_first is not None:
            keep = (1.0 - is_first).unsqueeze(-1)  # (B, 1)
            state, stoch = state * keep, stoch * keep
        h = self._cell(state, self.stoch_in(stoch), action_embedding, out)
        return h, h

    def observe(
        self, stoch: Tensor, action: Tensor, is_first: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        keep = (1.0 - is_first).unsqueeze(-1)  # (B, T, 1)
        z_in = self.stoch_in(stoch * keep)  # (B, T, hidden)
        action_embedding = self.action_embedding(action, is_first)  # (B, T, D)
        hs = []
        for z, u, k in zip(z_in.unbind(1), action_embedding.unbind(1), keep.unbind(1), strict=True):
            state = self._cell(state * k, z, u)
            hs.append(state)
        h = torch.stack(hs, 1)  # (B, T, D)
        return h, h

    def last(self, states: Tensor) -> Tensor:
        return states[:, -1]

    def _cell(self, h: Tensor, z_in: Tensor, action_embedding: Tensor, out: Tensor | None = None) -> Tensor:
        """h (B, D), f(z) (B, hidden), action's (B, D) → the next h; without gradients into `out`."""
        x = torch.cat([self.deter_in(h), z_in], -1)  # (B, 2·hidden)
        if (
            not torch.is_grad_enabled()
            and not len(self.more)
            and kernels.fit(h)
            and kernels.fit(action_embedding)
        ):
            y = affine(x, self.mix_state.weight)
            out = h.new_empty(h.shape) if out is None else out
            return kernels.gru_update(
                y,
                action_embedding,
                h,
                self.recur.weight,
                self.norm.scale,
                self.gates.weight,
                self.gate_bias().flatten(),
                out,
            )
        if len(h) >= MANY_ROWS and h.is_cpu and not torch.is_grad_enabled():
            y = self.norm(
                add_blockwise_(affine_add(x, self.mix_state.weight, action_embedding), h, self.recur.weight)
            )
            return self._update_blocks(h, self.more(y), torch.empty_like(h) if out is None else out)
        y = self.norm(
            blockwise(h, self.recur.weight, affine_add(x, self.mix_state.weight, action_embedding))
        )  # (B, D)
        gates = self.gates(self.more(y)).view(len(h), self.blocks, 3, -1)  # (B, g, 3, D/g)
        reset, candidate, update = gates.unbind(2)
        candidate = tanh(torch.sigmoid(reset) * candidate)
        h_next = torch.lerp(h.view_as(candidate), candidate, torch.sigmoid(update - 1.0)).view_as(h)
        return h_next if out is None else out.copy_(h_next)

    def _update_blocks(self, h: Tensor, y: Tensor, out: Tensor) -> Tensor:
        """The same block after block: with many rows, what one block needs stays in the cache."""
        width = self.deter // self.blocks
        for weight, bias, h_in, y_in, h_out in zip(
            self.gates.weight,
            self.gate_bias(),
            h.split(width, -1),
            y.split(width, -1),
            out.split(width, -1),
            strict=True,
        ):
            reset, candidate, update = affine(y_in, weight.t(), bias).chunk(3, -1)
            candidate = tanh_(reset.sigmoid_().mul_(candidate))
            torch.lerp(h_in, candidate, update.sigmoid_(), out=h_out)
        return out

    def gate_bias(self) -> Tensor:
        """(g, 3·D/g); the update gate's −1 belongs to it."""
        bias = self.gates.bias.view(self.blocks, 3, -1)
        return (bias - bias.new_tensor([0.0, 0.0, 1.0]).view(1, 3, 1)).view(self.blocks, -1)

    def select(self, states: Tensor, b: Tensor | None, t: Tensor) -> Tensor:
        if b is None:
            return states.gather(1, t.unsqueeze(-1).expand(-1, -1, self.deter)).flatten(0, 1)
        return states[b, t]

    def schedule(self, update: int) -> None:
        """Nothing here follows one."""

    def pack(self, state: Tensor) -> Tensor:
        return state

    def unpack(self, packed: Tensor) -> Tensor:
        return packed


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent. On processors other than Intel's torch takes four times longer for it than
    for the sigmoid, so there it is 2σ(2x) − 1."""
    return torch.tanh(x) if INTEL else torch.sigmoid(2.0 * x) * 2.0 - 1.0


def tanh_(x: Tensor) -> Tensor:
    """The same in place."""
    return x.tanh_() if INTEL else x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)
