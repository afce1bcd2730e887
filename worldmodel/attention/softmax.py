"""`softmax`: exact scaled dot-product attention (Vaswani et al. 2017, eq. 1), κ = exp(q·k/√d)."""

from torch import Tensor

from qdreamer.worldmodel.attention.dot_product import DotProduct


class Softmax(DotProduct):
    """The classical kind. It has no noise: the channel belongs to the quantum-inspired kinds."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.scale = width**-0.5

    def amplify(self, q: Tensor) -> Tensor:
        return q * self.scale

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * self.scale
