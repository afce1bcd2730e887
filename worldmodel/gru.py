"""Block GRU, DreamerV3's sequence model (Hafner et al. 2025, Methods; danijar/dreamerv3).

    x   = [f(h), f(z), f(a)]                       f = Linear → RMSNorm → SiLU, width `hidden`
    y   = f_block([h_g, x] for each block g)       `layers` times, block-diagonal in h
    r, c, u = gates(y);   h' = σ(u−1)·tanh(σ(r)·c) + (1 − σ(u−1))·h

The part of the first layer that x feeds is repeated for every block, so it is one dense product
[3·hidden → D]; its rows that belong to the action do not depend on the recurrence and are hoisted
out of the time loop (`drive`).
"""

import torch
from torch import Tensor, nn

from worldmodel.layers import BlockLinear, Linear, NormSiLU, init_weight, spread_biases


class BlockGRU(nn.Module):
    """See the module's docstring; shapes as in `worldmodel.sequence.SequenceModel`.

    Raises ValueError when `deter` does not divide by `blocks`.
    """

    def __init__(
        self, stoch: int, action: int, deter: int, hidden: int, blocks: int, layers: int = 1
    ) -> None:
        super().__init__()
        self.deter = deter
        self.blocks = blocks
        self.deter_in = nn.Sequential(Linear(deter, hidden), NormSiLU(hidden))
        self.stoch_in = nn.Sequential(Linear(stoch, hidden), NormSiLU(hidden))
        self.action_in = nn.Sequential(spread_biases(Linear(action, hidden), std=1.0), NormSiLU(hidden))
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

    def drive(self, action: Tensor, is_first: Tensor | None) -> Tensor:
        if is_first is not None:
            action = action * (1.0 - is_first).unsqueeze(-1)
        # Actions of any size enter with magnitude at most 1, as in the reference.
        action = action / action.detach().abs().clamp(min=1.0)
        return self.mix_action(self.action_in(action))

    def step(
        self, stoch: Tensor, drive: Tensor, is_first: Tensor | None, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        if is_first is not None:
            keep = (1.0 - is_first).unsqueeze(-1)  # (B, 1)
            state, stoch = state * keep, stoch * keep
        h = self._cell(state, self.stoch_in(stoch), drive)
        return h, h

    def observe(
        self, stoch: Tensor, action: Tensor, is_first: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        keep = (1.0 - is_first).unsqueeze(-1)  # (B, T, 1)
        z_in = self.stoch_in(stoch * keep)  # (B, T, hidden)
        drive = self.drive(action, is_first)  # (B, T, D)
        hs = []
        for z, u, k in zip(z_in.unbind(1), drive.unbind(1), keep.unbind(1), strict=True):
            state = self._cell(state * k, z, u)
            hs.append(state)
        h = torch.stack(hs, 1)  # (B, T, D)
        return h, h, state

    def _cell(self, h: Tensor, z_in: Tensor, drive: Tensor) -> Tensor:
        x = torch.cat([self.deter_in(h), z_in], -1)  # (B, 2·hidden)
        y = self.norm(self.recur(h) + torch.addmm(drive, x, self.mix_state.weight.t()))  # (B, D)
        gates = self.gates(self.more(y))  # (B, 3·D), for each block: reset, candidate, update
        if self.blocks > 1:
            gates = gates.view(len(h), self.blocks, 3, -1).transpose(1, 2).reshape(len(h), -1)
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(h, candidate, torch.sigmoid(update - 1.0))

    def select(self, states: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return states[b, t]

    def pack(self, state: Tensor) -> Tensor:
        return state

    def unpack(self, packed: Tensor) -> Tensor:
        return packed


def make_sequence(
    name: str, stoch: int, action: int, deter: int, hidden: int, blocks: int, layers: int
) -> BlockGRU:
    """The sequence model called `name` in configs/sequence."""
    return {"gru": BlockGRU}[name](stoch, action, deter, hidden, blocks, layers)
