"""The weights that the scan over time uses, as its two forms and their gradients name them."""

from typing import NamedTuple

from torch import Tensor


class ScanWeights(NamedTuple):
    """Layers are (out, in), blocks (g, in/g, out/g); see `worldmodel.scan` for the notation."""

    w_h: Tensor  # f(h)
    b_h: Tensor
    w_z: Tensor  # f(z)
    b_z: Tensor
    s_x: Tensor  # (2, hidden), scales of both
    w_recur: Tensor  # h → y, block by block
    w_mix: Tensor  # x → y
    s_y: Tensor
    w_gates: Tensor  # y → gates, block by block
    b_gates: Tensor
    w_q: Tensor  # h → q
    s_q: Tensor
    w_out: Tensor  # q → logits
    b_out: Tensor
