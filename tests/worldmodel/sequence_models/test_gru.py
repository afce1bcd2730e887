"""The block GRU against danijar/dreamerv3's original form, written anew in NumPy float64.

There the concatenated inputs are repeated for every block and one block-linear layer sees both;
here the module's own (rearranged) weights are put back into that form.
"""

import numpy as np
import pytest
import torch

from qdreamer.worldmodel.sequence_models.gru import BlockGRU

STOCH, ACTION, DETER, HIDDEN, BATCH = 6, 3, 16, 5, 4


def make_gru(blocks, layers=1, seed=0):
    """A GRU whose parameters are all random, biases and norm scales included."""
    torch.manual_seed(seed)
    gru = BlockGRU(STOCH, ACTION, DETER, HIDDEN, blocks, layers).double()
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return gru


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm_silu(x, norm):
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * norm.scale.detach().numpy()
    return y * sigmoid(y)


def dense_norm_silu(x, layers):
    linear, norm = layers
    return norm_silu(x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), norm)


def block_linear(x, kernel, bias):
    """x (B, I), kernel (g, I/g, O/g) → (B, O)."""
    groups = x.reshape(len(x), len(kernel), -1)
    return np.stack([groups[:, g] @ kernel[g] for g in range(len(kernel))], 1).reshape(len(x), -1) + bias


def first_kernel(gru):
    """Kernel (g, D/g + 3·hidden, D/g) of the first block-linear layer on [h_g, x0, x1, x2]."""
    of_state = gru.mix_state.weight.detach().numpy().T  # (2·hidden, D), from h and z
    of_action = gru.mix_action.weight.detach().numpy().T  # (hidden, D)
    repeated = np.concatenate([of_state, of_action]).reshape(3 * HIDDEN, gru.blocks, -1).transpose(1, 0, 2)
    return np.concatenate([gru.recur.weight.detach().numpy(), repeated], 1)


def reference_step(gru, deter, stoch, action):
    blocks = gru.blocks
    action = action / np.maximum(1, np.abs(action))
    x0 = dense_norm_silu(deter, gru.deter_in)
    x1 = dense_norm_silu(stoch, gru.stoch_in)
    x2 = dense_norm_silu(action, gru.action_in)
    x = np.repeat(np.concatenate([x0, x1, x2], -1)[:, None], blocks, 1)  # (B, g, 3·hidden)
    x = np.concatenate([deter.reshape(len(deter), blocks, -1), x], -1).reshape(len(deter), -1)
    x = norm_silu(block_linear(x, first_kernel(gru), gru.recur.bias.detach().numpy()), gru.norm)
    for linear, norm in zip(gru.more[::2], gru.more[1::2], strict=True):
        x = norm_silu(block_linear(x, linear.weight.detach().numpy(), linear.bias.detach().numpy()), norm)
    x = block_linear(x, gru.gates.weight.detach().numpy(), gru.gates.bias.detach().numpy())
    gates = np.split(x.reshape(len(x), blocks, -1), 3, -1)
    reset, candidate, update = (gate.reshape(len(x), -1) for gate in gates)
    reset = sigmoid(reset)
    candidate = np.tanh(reset * candidate)
    update = sigmoid(update - 1)
    return update * candidate + (1 - update) * deter


def random_inputs(seed=1):
    random = np.random.default_rng(seed)
    deter = np.tanh(random.normal(size=(BATCH, DETER)))
    stoch = np.eye(3)[random.integers(3, size=(BATCH, 2))].reshape(BATCH, STOCH)
    action = 2 * random.normal(size=(BATCH, ACTION))  # some beyond ±1
    assert (np.abs(action) > 1).any()
    assert (np.abs(action) < 1).any()
    return deter, stoch, action


@pytest.mark.parametrize("blocks", [1, 2, 8])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_step(blocks, layers, grad):
    gru = make_gru(blocks, layers)
    deter, stoch, action = random_inputs()
    with torch.set_grad_enabled(grad):
        action_embedding = gru.action_embedding(torch.from_numpy(action), None)
        h, state = gru.step(torch.from_numpy(stoch), action_embedding, None, torch.from_numpy(deter))
    expected = reference_step(gru, deter, stoch, action)
    np.testing.assert_allclose(h.detach().numpy(), expected, rtol=1e-11, atol=1e-13)
    assert torch.equal(state, h)


@pytest.mark.parametrize("blocks", [1, 8])
def test_is_first_zeroes_state_latent_and_action(blocks):
    gru = make_gru(blocks)
    deter, stoch, action = random_inputs()
    first = np.array([1.0, 0.0, 1.0, 0.0])
    with torch.no_grad():
        action_embedding = gru.action_embedding(torch.from_numpy(action), torch.from_numpy(first))
        h, _ = gru.step(
            torch.from_numpy(stoch), action_embedding, torch.from_numpy(first), torch.from_numpy(deter)
        )
    keep = 1 - first[:, None]
    np.testing.assert_allclose(
        h.numpy(), reference_step(gru, deter * keep, stoch * keep, action * keep), rtol=1e-11, atol=1e-13
    )


def test_initialisation_counts_the_whole_grouped_input_as_fan_in():
    torch.manual_seed(0)
    gru = BlockGRU(64, 2, 256, 128, 8)
    fan_in = 256 + 8 * 3 * 128
    for weight in (gru.recur.weight, gru.mix_state.weight, gru.mix_action.weight):
        # Five standard errors of a normal's deviation.
        tolerance = 5 / (2 * weight.numel()) ** 0.5
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=tolerance)
    assert gru.gates.weight.std().item() == pytest.approx(256**-0.5, rel=5 / (2 * 8 * 32 * 96) ** 0.5)


def test_initial_state_and_packing():
    gru = BlockGRU(STOCH, ACTION, DETER, HIDDEN, 2, 1)
    state = gru.initial(3)
    assert torch.equal(state, torch.zeros(3, DETER))
    assert gru.deter == DETER
    assert torch.equal(gru.unpack(gru.pack(state + 1)), state + 1)
    states = torch.arange(2 * 3 * DETER).view(2, 3, DETER)
    b, t = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2])
    assert torch.equal(gru.select(states, b, t), torch.stack([states[0, 2], states[1, 0], states[1, 2]]))


def test_refuses_widths_that_do_not_divide():
    with pytest.raises(ValueError, match="divide by 3 blocks"):
        BlockGRU(STOCH, ACTION, DETER, HIDDEN, 3)
