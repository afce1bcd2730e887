"""Any module, with weights that something else makes.

    generate(policy, lambda count: QuantumTrain(count, blocks=5), every_forward=True)

takes all parameters out of the module and puts tensors in their place, cut from one vector of M numbers. They
keep their gradient to what made them until `refresh` makes them anew: with `every_forward` before every call
of the module, otherwise when its owner says so. An agent does so once per update with gradients, and once
without after the optimizer's step.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

SMALL = 0.1
"""Share of 1/√fan under which a tensor was drawn to start as good as at 0."""


class GeneratedWeights(nn.Module):
    """Makes the weights of a module, of which it becomes a part called `generated`.

    With `scaled`, a tensor's numbers are (x/σ₀)/√fan + c: x as the generator makes it, σ₀ the deviation of
    all x at the beginning, fan the tensor's last axis. c is 0 where the tensor was drawn about so large; what
    was constant (norms, biases, outputs that start at 0) or drawn much smaller (an actor's output) begins as
    it was, by a c that is kept: two-hot outputs must start at 0. Without, they are x itself, as published.
    """

    gain: Tensor

    def __init__(self, module: nn.Module, make: Callable[[int], nn.Module], scaled: bool) -> None:
        super().__init__()
        owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}  # tied weights have several
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                owners.setdefault(parameter, []).append((owner, name))
        if not owners:
            raise ValueError("the module has no parameters that could be made")
        like = next(iter(owners))
        self._owners = list(owners.values())
        self._shapes = [parameter.shape for parameter in owners]
        self._sizes = [parameter.numel() for parameter in owners]
        generator = make(sum(self._sizes)).to(like)
        fans = torch.tensor([_fan_in(shape) for shape in self._shapes], dtype=like.dtype)
        with torch.no_grad():
            first = generator()
            deviation = first.std()
            if scaled and not (deviation > 0.0 and torch.isfinite(deviation)):
                raise ValueError("weights that are all alike cannot be scaled: use scale=none")
            fans = fans.to(like.device)
            gain = 1.0 / (deviation * fans.sqrt()) if scaled else torch.ones_like(fans)
            parts = zip(owners, first.split(self._sizes), gain, fans, strict=True)
            for k, (tensor, part, factor, fan) in enumerate(parts):
                small = scaled and bool(tensor.std(correction=0) < SMALL / fan.sqrt())
                start = tensor.detach() - (part * factor).view_as(tensor) if small else tensor.new_zeros(())
                self.register_buffer(f"centre_{k}", start)
        self.generator = generator
        self.register_buffer("gain", gain)
        for tensors in self._owners:
            for owner, name in tensors:
                del owner._parameters[name]
        self.register_load_state_dict_post_hook(lambda weights, keys: weights._refresh_without_gradients())
        self._refresh_without_gradients()

    def forward(self, x: Tensor) -> Tensor:
        """Return x as it is: a Sequential calls all of its parts."""
        return x

    @property
    def count(self) -> int:
        """M, the weights that are made."""
        return sum(self._sizes)

    def refresh(self) -> None:
        """Make the weights anew, with gradients to the generator where gradients are recorded."""
        flat = self.generator().split(self._sizes)
        each = zip(flat, self.gain.unbind(), self._shapes, self._owners, strict=True)
        for k, (part, gain, shape, owners) in enumerate(each):
            tensor = torch.addcmul(getattr(self, f"centre_{k}"), part.view(shape), gain)
            for owner, name in owners:
                owner.__dict__[name] = tensor

    def tensors(self) -> list[Tensor]:
        """Return the weights as they are, in the order in which the module's parameters were."""
        return [owners[0][0].__dict__[owners[0][1]] for owners in self._owners]

    def _refresh_without_gradients(self) -> None:
        with torch.no_grad():
            self.refresh()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        moved = super()._apply(fn, recurse)  # to another device or type
        self._refresh_without_gradients()
        return moved


def _fan_in(shape: torch.Size) -> int:
    """Return what each output of a weight sums over; of vectors their length."""
    if len(shape) == 3:  # blocks (g, in, out)
        return shape[1]
    return shape[1:].numel() if len(shape) > 1 else shape.numel()  # (out, in, …)


def generate(
    module: nn.Module,
    make: Callable[[int], nn.Module],
    scaled: bool = True,
    every_forward: bool = False,
) -> GeneratedWeights:
    """Let the module's weights be made by `make(M)`, a module whose call returns M numbers.

    Args:
        scaled: see `GeneratedWeights`. every_forward: make them anew whenever the module is called;
            nobody calls the layers inside a stack or a head, only these as a whole.

    Raises ValueError for a module without parameters, or whose weights are made already.
    """
    if hasattr(module, "generated"):
        raise ValueError("the module's weights are made already")
    module.generated = GeneratedWeights(module, make, scaled)
    if every_forward:
        module.register_forward_pre_hook(lambda called, arguments: called.generated.refresh())
    return module.generated


def effective(module: nn.Module) -> list[Tensor]:
    """Return a module's weights: its parameters, or what is made in their place, in the same order."""
    generated = getattr(module, "generated", None)
    return list(module.parameters()) if generated is None else generated.tensors()
