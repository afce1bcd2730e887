"""Imagination's loop over time in C (native/c/rollout.c): tensors to pointers and back.

A step of the loop is some forty operations of torch on a few hundred rows, most of which take longer
to dispatch than to do, and each of which sends its result through memory.
"""

import ctypes

import torch
from torch import Tensor

from qdreamer.agents.actor import BoundedNormalActor, CategoricalActor
from qdreamer.native import Activations, kernels
from qdreamer.native.imagine_native import NativeRolloutState
from qdreamer.worldmodel.networks.layers import MLP, Linear
from qdreamer.worldmodel.rssm import RSSM, Carry
from qdreamer.worldmodel.sequence_models.gru import BlockGRU
from qdreamer.worldmodel.sequence_models.transformer import Transformer

MOST_WEIGHTS = 2**22
"""Of the GRU: up to so many this is known to be ahead of torch's products of all rows at once."""

MOST_WIDTH = 2048
"""Of a layer: activations of a group lie on the stack."""

GROUP = 64
"""Trajectories that go together through all of time: more fetch the weights less often."""

FUTURES = 32
"""The same for a transformer's, of which native/c/imagine.c takes no more."""

PANEL = 32
"""Outputs of a packed weight are rounded up to so many at most, see native/c/products.h."""


POINTERS = "weight bias scale packed unit inverse y"


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in POINTERS.split()),
    ]


GRU_LAYERS = "deter_in mix"
GRU_TENSORS = "w_z b_z s_z w_recur s_y w_gates b_gates state packed_recur packed_gates"
SIZES = "threads group H N D S K A discrete prior_layers actor_layers"
NUMBERS = "unimix actor_unimix low high"
LAYERS = "prior prior_out actor actor_out action_in mix_action"
TENSORS = "gru futures actor_z drive_bias stoch noise choices table features actions"
"""The structs' members in their order; see native/c/rollout.c."""


class _GRU(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_int64),
        *((name, ctypes.POINTER(_Layer)) for name in GRU_LAYERS.split()),
        *((name, ctypes.c_void_p) for name in GRU_TENSORS.split()),
    ]


class _Rollout(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_float) for name in NUMBERS.split()),
        *((name, ctypes.POINTER(_Layer)) for name in LAYERS.split()),
        *((name, ctypes.c_void_p) for name in TENSORS.split()),
    ]


def supports(
    rssm: RSSM, actor: CategoricalActor | BoundedNormalActor, features: Tensor, carry: Carry
) -> bool:
    """Whether the kernels are on and know these networks: one recurrent layer, not too large, or futures
    of a transformer that native/c/imagine.c takes."""
    sequence = rssm.sequence
    if not kernels.fit(features) or type(actor) not in (CategoricalActor, BoundedNormalActor):
        return False
    body, _ = _body(actor)
    if not len(body):
        return False
    if isinstance(sequence, Transformer):
        largest = [linear.weight for linear, _ in map(body.layer, range(_depth(body)))]
        known = isinstance(carry.state, NativeRolloutState)
    elif type(sequence) is BlockGRU:
        largest = [sequence.recur.weight, sequence.mix_state.weight, sequence.gates.weight]
        known = not len(sequence.more)
    else:
        return False
    widths = [rssm.stoch * rssm.classes, rssm.prior_units, body.layer(0)[0].out_features]
    fits = max(widths) <= MOST_WIDTH and sum(weight.numel() for weight in largest) <= MOST_WEIGHTS
    return known and fits


@torch.no_grad()
def roll(
    rssm: RSSM,
    actor: CategoricalActor | BoundedNormalActor,
    carry: Carry,
    noise: Tensor,
    choices: Tensor,
    table: Tensor | None,
    features: Tensor,
) -> tuple[Tensor, Activations]:
    """Fill `features` (H + 1, N, F) from its first step on.

    Args:
        carry: the start's state and latent. noise: (H, N, S). choices: (H, N) or (H, N, A), the actor's.
        table: drive of each one-hot action (A, D), for discrete actions.
    Returns:
        The actions (H, N, A), and what the actor's layers made of features[:-1] for their gradients.
    """
    sequence, state = rssm.sequence, carry.state
    assert isinstance(sequence, BlockGRU | Transformer)
    steps, rows = noise.shape[:2]
    call = _Call(noise)
    body, actor_out = _body(actor)
    prior, prior_out = rssm.prior
    assert isinstance(prior, MLP)
    assert isinstance(prior_out, Linear)
    layers, kept = _depth(body), []
    for i in range(layers):
        width = body.layer(i)[0].out_features
        unit, y = (noise.new_empty(steps * rows, width) for _ in range(2))
        kept.append((unit, noise.new_empty(steps * rows, 1), y))
    # Classes first: draws then run along the latents.
    shape = rssm.stoch, rssm.classes
    out_weight = prior_out.weight.unflatten(0, shape).transpose(0, 1).flatten(0, 1)
    out_bias = prior_out.bias.unflatten(0, shape).t().flatten()
    actions = noise.new_empty(steps, rows, actor.count)
    gru = isinstance(sequence, BlockGRU)
    drive_bias = sequence.recur.bias if isinstance(sequence, BlockGRU) else sequence.mix_action.bias
    assert isinstance(drive_bias, Tensor)
    tensors = {
        "actor_z": call.rows(body.layer(0)[0].weight[:, sequence.deter :]),
        "drive_bias": drive_bias,
        "stoch": carry.stoch, "noise": noise, "choices": choices, "features": features, "actions": actions,
    }  # fmt: skip
    if table is not None:
        tensors["table"] = table
    discrete, threads = isinstance(actor, CategoricalActor), torch.get_num_threads()
    members = {
        "threads": threads, "group": min(GROUP if gru else FUTURES, -(-rows // (8 * threads)) * 8),
        "H": steps, "N": rows, "D": sequence.deter,
        "S": rssm.stoch, "K": rssm.classes, "A": actor.count, "discrete": discrete,
        "prior_layers": _depth(prior), "actor_layers": layers,
        "unimix": rssm.unimix, "actor_unimix": actor.unimix if discrete else 0.0,
        "low": 0.0 if discrete else actor.min_std, "high": 0.0 if discrete else actor.max_std,
        "prior": call.stack(prior), "prior_out": call.layer(out_weight, out_bias),
        "actor": call.stack(body, kept, sequence.deter),
        "actor_out": call.layer(actor_out.weight, actor_out.bias),
        "action_in": call.stack(sequence.action_in), "mix_action": call.layer(sequence.mix_action.weight),
    } | {name: call.pointer(tensor) for name, tensor in tensors.items()}  # fmt: skip
    if isinstance(sequence, BlockGRU):
        struct = _gru(call, sequence, state)
        call.run(gru=ctypes.addressof(struct), **members)
    else:
        assert isinstance(state, NativeRolloutState)
        with state.steps(steps) as address:
            call.run(futures=address, **members)
    return actions, kept


def _gru(call: "_Call", gru: BlockGRU, state: Tensor) -> _GRU:
    stoch_in, stoch_norm = gru.stoch_in.layer(0)
    width = gru.deter // gru.blocks
    gate_bias = gru.gates.bias.view(gru.blocks, 3, width) - state.new_tensor([[0.0], [0.0], [1.0]])
    packed = [state.new_empty(gru.blocks * width * (columns + PANEL)) for columns in (width, 3 * width)]
    tensors = {
        "w_z": call.rows(stoch_in.weight), "b_z": stoch_in.bias, "s_z": stoch_norm.scale,
        "w_recur": gru.recur.weight, "s_y": gru.norm.scale,
        "w_gates": gru.gates.weight, "b_gates": gate_bias.flatten(),
        "packed_recur": packed[0], "packed_gates": packed[1], "state": state,
    }  # fmt: skip
    return _GRU(
        blocks=gru.blocks, deter_in=call.stack(gru.deter_in), mix=call.layer(gru.mix_state.weight),
        **{name: call.pointer(tensor) for name, tensor in tensors.items()},
    )  # fmt: skip


class _Call:
    """One call's memory: contiguous tensors, and places for packed weights, held until it has returned."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: list[Tensor] = []

    def pointer(self, tensor: Tensor) -> int:
        self._held.append(tensor.contiguous())
        return self._held[-1].data_ptr()

    def rows(self, weight: Tensor) -> Tensor:
        """(out, in) → (in, out), readable for a panel behind the end."""
        out, inputs = weight.shape
        place = self._like.new_zeros(inputs * out + PANEL)[: inputs * out]
        return place.view(inputs, out).copy_(weight.t())

    def stack(
        self, mlp: MLP, kept: Activations | None = None, inputs: int | None = None
    ) -> ctypes.Array[_Layer]:
        """All layers; of the first one only so many `inputs` are multiplied by packed weights."""
        layers = []
        for i in range(_depth(mlp)):
            linear, norm = mlp.layer(i)
            given = kept[i] if kept else ()
            n = inputs if inputs is not None and i == 0 else linear.in_features
            layers.append(self._layer(linear.weight, linear.bias, norm.scale, n, *given))
        return (_Layer * len(layers))(*layers)

    def layer(self, weight: Tensor, bias: Tensor | None = None) -> ctypes.Array[_Layer]:
        """A layer without norm and SiLU."""
        return (_Layer * 1)(self._layer(weight, bias, None, weight.shape[1]))

    def _layer(
        self, weight: Tensor, bias: Tensor | None, scale: Tensor | None, n: int, *kept: Tensor
    ) -> _Layer:
        packed = self._like.new_empty((len(weight) + PANEL) * n)
        tensors = weight, bias, scale, packed
        pointers = (None if tensor is None else self.pointer(tensor) for tensor in tensors)
        return _Layer(n, len(weight), *pointers, *(tensor.data_ptr() for tensor in kept))

    def run(self, **members: object) -> None:
        kernels.functions().rollout(ctypes.byref(_Rollout(**members)))


def _body(actor: CategoricalActor | BoundedNormalActor) -> tuple[MLP, Linear]:
    body, out = actor.body
    assert isinstance(body, MLP)
    assert isinstance(out, Linear)
    return body, out


def _depth(mlp: MLP) -> int:
    return len(mlp) // 2
