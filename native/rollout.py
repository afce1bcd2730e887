"""Imagination's loop over time (c/rollout.c): actor, sequence model, prior and draws.

A step of the loop is some forty operations of torch on a few hundred rows, most of which take longer
to dispatch than to do, and each of which sends its result through memory. C takes a few trajectories
through all of time before the next ones begin.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.futures import FUTURES, MemoryRollout, TransformerRollout, fill_futures, fill_recall
from qdreamer.native.library import FLOAT, INT64, POINTER, Struct, members
from qdreamer.native.mlp import mlp
from qdreamer.native.products import linear
from qdreamer.native.structs import (
    ActionWeights,
    Activations,
    CallMemory,
    CLayer,
    GRUStruct,
    GRUWeights,
    Layer,
    kept_numbers,
)

MOST_WEIGHTS = 2**22
"""Of the GRU: up to so many C is known to be ahead of torch's products of all rows at once."""

MOST_WIDTH = 2048
"""Of a layer: what C needs for a group of trajectories is to fit the cache."""

MOST_TOGETHER = 2**16
"""Latents, or numbers of actions, of trajectories that go together: C has room for them on its stack."""

GROUP = 64
"""Trajectories that go together through all of time: more fetch the weights less often."""


class HeadWeights(NamedTuple):
    """An MLP and the linear map of its output."""

    layers: list[Layer]
    weight: Tensor  # (out, units)
    bias: Tensor


class ActorWeights(NamedTuple):
    """What makes actions of features."""

    head: HeadWeights
    unimix: float | None  # of one-hot actions; None for normal ones
    std: tuple[float, float] = (0.0, 0.0)  # range of the deviation of normal actions


class GRURollout(NamedTuple):
    """The block GRU, the states that futures begin with, and its memory if it has one."""

    action: ActionWeights
    cell: GRUWeights
    state: Tensor  # (N, D)
    memory: MemoryRollout | None = None


class RolloutWeights(NamedTuple):
    """The networks of imagination, as far as C knows them."""

    sequence: GRURollout | TransformerRollout | None
    prior: HeadWeights
    actor: ActorWeights | None  # None, or without layers: torch is asked at every step
    actions: int  # A
    latents: int  # S
    unimix: float  # of the prior
    stoch: Tensor  # (N, S·K), the latents that futures begin with


class RolloutLoop(NamedTuple):
    """The functions that a step of imagination consists of."""

    act: Callable[[Tensor], Tensor]  # features (N, F) → the actor's output (N, ·), with gradients
    sample: Callable[[Tensor, Tensor], Tensor]  # output and random variables (N, ·) → actions (N, A)
    step: Callable[[Tensor, Any, Tensor, Tensor], Any]  # actions, carry, noise (N, S), features out → carry
    act_again: Callable[[Tensor, Activations], Tensor]  # `act` of a pass whose activations are known


def reference(
    loop: RolloutLoop, weights: RolloutWeights, carry: Any, noise: Tensor, choices: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill features (H + 1, N, F) from their first step on.

    Args:
        carry: what `loop.step` goes on from. noise: (H, N, S). choices: (H, N, ·), for the actions.
    Returns:
        The actions (H, N, A), and the actor's output at features[:-1], with gradients to the actor alone.
    """
    actions, outputs = [], []
    for t in range(len(noise)):
        # `data`, because autograd takes what later steps write beside these rows for a change of them.
        outputs.append(loop.act(features[t].data))
        with torch.no_grad():
            actions.append(loop.sample(outputs[t], choices[t]))
            carry = loop.step(actions[t], carry, noise[t], features[t + 1])
    return torch.stack(actions), torch.stack(outputs)


def supports(
    loop: RolloutLoop, weights: RolloutWeights, carry: Any, noise: Tensor, choices: Tensor, features: Tensor
) -> bool:
    """Return whether C knows these networks and they are not too large for it."""
    sequence, layers = weights.sequence, weights.actor.head.layers if weights.actor else []
    if sequence is None or not fits(features, noise):
        return False
    if not layers and noise.shape[1] * max(weights.latents, weights.actions) > MOST_TOGETHER:
        return False
    blocks = sequence.futures if isinstance(sequence, TransformerRollout) else None
    maps = []
    if isinstance(sequence, GRURollout):
        maps = [sequence.cell.w_recur, sequence.cell.w_mix, sequence.cell.w_gates]
        blocks = sequence.memory and sequence.memory.futures
    if blocks is not None:
        maps += [blocks.stoch, *(layer.weights.qkv for layer in blocks.layers)]
    widths = [weights.stoch.shape[-1], *(len(layer.bias) for layer in (*layers, *weights.prior.layers))]
    known = blocks is None or blocks.known()
    return known and max(widths) <= MOST_WIDTH and sum(weight.numel() for weight in maps) <= MOST_WEIGHTS


def call(
    loop: RolloutLoop, weights: RolloutWeights, carry: Any, noise: Tensor, choices: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    actions = noise.new_empty(*noise.shape[:2], weights.actions)
    memory, actor = CallMemory(noise), weights.actor
    if actor is not None and actor.head.layers:
        known, activations = _known_actor(memory, weights, actor, choices, features)
        _roll(memory, weights, noise, features, actions, **known)
        return actions, loop.act_again(features[:-1], activations)
    outputs, failure, learning = list[Tensor](), list[BaseException](), torch.is_grad_enabled()

    def act(t: int) -> None:
        if failure:
            return
        try:
            with torch.set_grad_enabled(learning):
                outputs.append(loop.act(features[t].data))
            actions[t] = loop.sample(outputs[t], choices[t])
        except BaseException as error:  # C would go on
            failure.append(error)

    _roll(memory, weights, noise, features, actions, threads=1, group=noise.shape[1], ask=_Ask(act))
    if failure:
        raise failure[0]
    return actions, torch.stack(outputs)


_Ask = ctypes.CFUNCTYPE(None, INT64)


class _Rollout(Struct, name="rollout"):
    _fields_ = (
        *members(INT64, "threads group H N D W S K A discrete prior_layers actor_layers"),
        *members(FLOAT, "unimix actor_unimix low high"),
        *members(ctypes.POINTER(CLayer), "prior prior_out actor actor_out action_in mix_action"),
        *members(
            POINTER, "gru recall futures state actor_z action_bias stoch noise choices table features actions"
        ),
        ("ask", _Ask),
    )


_rollout = Function("rollout", ctypes.POINTER(_Rollout))


@torch.no_grad()
def _known_actor(
    memory: CallMemory, weights: RolloutWeights, actor: ActorWeights, choices: Tensor, features: Tensor
) -> tuple[dict[str, Any], Activations]:
    """Return an actor's members of C's struct, and what its layers will have made of features[:-1]."""
    assert weights.sequence is not None
    layers, discrete, width = actor.head.layers, actor.unimix is not None, features.shape[-1]
    width -= weights.stoch.shape[-1]  # W
    kept = choices.new_empty(kept_numbers(layers, choices.shape[:2].numel()))
    activations = Activations(kept, choices.new_empty(choices.shape[:2].numel(), len(layers[-1].bias)))
    first = layers[0]._replace(weight=layers[0].weight[:, :width])
    tensors = {"actor_z": memory.rows(layers[0].weight[:, width:]), "choices": choices}
    if discrete:
        hidden, mix, bias = weights.sequence.action
        tensors["table"] = linear(mlp(torch.eye(weights.actions), [hidden]), mix, bias)  # (A, D)
    known = {
        "threads": torch.get_num_threads(), "discrete": discrete, "actor_layers": len(layers),
        "actor_unimix": actor.unimix or 0.0, "low": actor.std[0], "high": actor.std[1],
        "actor": memory.layers([first, *layers[1:]], *activations),
        "actor_out": memory.map(actor.head.weight, actor.head.bias),
        **{name: memory.pointer(tensor) for name, tensor in tensors.items()},
    }  # fmt: skip
    return known, activations


@torch.no_grad()
def _roll(
    memory: CallMemory, weights: RolloutWeights, noise: Tensor, features: Tensor, actions: Tensor,
    threads: int, group: int | None = None, **actor: Any,
) -> None:  # fmt: skip
    """Fill `features` from their first step on, and `actions`.

    group: trajectories that go together through all of time; None: as many as suit the cache.
    actor: the members of C's struct that say who acts.
    """
    sequence, prior, _, size, latents, unimix, stoch = weights
    assert sequence is not None
    (steps, rows), width = noise.shape[:2], features.shape[-1] - stoch.shape[-1]  # W
    # Classes first: draws then run along the latents.
    out_weight = prior.weight.unflatten(0, (latents, -1)).transpose(0, 1).flatten(0, 1)
    out_bias = prior.bias.view(latents, -1).t().flatten()
    tensors = {
        "action_bias": sequence.action.bias, "stoch": stoch, "noise": noise, "features": features,
        "actions": actions,
    }  # fmt: skip
    suits, model = FUTURES, dict[str, int]()
    if isinstance(sequence, GRURollout):
        gru = GRUStruct(memory, sequence.cell._replace(w_z=memory.rows(sequence.cell.w_z)))
        model = {"gru": memory.address(gru), "state": memory.pointer(sequence.state)}
        if sequence.memory is None:
            suits = GROUP
        else:
            model["recall"] = memory.address(fill_recall(memory, sequence.memory, steps))
    else:
        model["futures"] = memory.address(fill_futures(memory, sequence.futures, steps))
    struct = _Rollout(
        threads=threads, group=group or min(suits, -(-rows // (8 * threads)) * 8),
        H=steps, N=rows, D=len(sequence.action.bias), W=width,
        S=latents, K=stoch.shape[-1] // latents, A=size, prior_layers=len(prior.layers), unimix=unimix,
        prior=memory.layers(prior.layers), prior_out=memory.map(out_weight, out_bias),
        action_in=memory.layers([sequence.action.hidden]), mix_action=memory.map(sequence.action.mix),
        **model, **actor, **{name: memory.pointer(tensor) for name, tensor in tensors.items()},
    )  # fmt: skip
    _rollout(struct)


rollout = Kernel("rollout", reference, call, supports)
