"""How many keys a query attends to, from its weights p (…, N, M)."""

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """−Σ p log p in nats, (…, N): 0 for one key, log M for all alike."""
    return torch.special.entr(p).sum(-1)


def effective_keys(p: Tensor) -> Tensor:
    """N_eff = 1/Σp², (…, N): the inverse participation ratio; 0 where no key is allowed."""
    squares = p.square().sum(-1)
    return torch.where(squares > 0, 1.0 / squares, 0.0)
