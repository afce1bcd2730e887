"""Coherent states: the weights are overlaps of states of light."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdreamer.worldmodel.attention.coherent import PHOTONS, Coherent
from qdreamer.worldmodel.attention.rotary import rotate

FOCK = 60  # photon numbers 0…59: the rest has probability < 1e-12 at the amplitudes used here


def coherent_state(modes):
    """α (…, modes) → e^{−|α|²/2} Σ_n αⁿ/√n! |n⟩ for each mode, (…, modes, FOCK)."""
    n = torch.arange(FOCK, dtype=torch.float64)
    powers = modes.unsqueeze(-1) ** n
    norm = torch.exp(0.5 * torch.lgamma(n + 1.0))
    return torch.exp(-modes.abs().square() / 2).unsqueeze(-1) * powers / norm


def amplitudes(x, photons):
    """Unit vectors times s, features i and i + d/2 as one mode."""
    x = x / x.norm(dim=-1, keepdim=True) * photons.sqrt().view(1, -1, 1, 1)
    return torch.complex(*x.chunk(2, -1))


@pytest.mark.parametrize("rotary", [False, True])
def test_weights_equal_overlaps_of_fock_space_states(heads_of, rotary):
    q, k, v = heads_of(0, 7, heads=3, width=6)
    kind = Coherent(3, 6).double()
    kind.log_photons.data = torch.tensor([0.5, 2.0, 9.0], dtype=torch.float64).log()
    if rotary:
        q, k = (rotate(x, torch.arange(7)) for x in (q, k))
    query, key = (coherent_state(amplitudes(x, kind.photons())) for x in (q, k))
    assert_close(query.abs().square().sum(-1), torch.ones(query.shape[:-1], dtype=torch.float64))
    inner = torch.einsum("bhnaf,bhmaf->bhnma", query.conj(), key).prod(-1)  # ⟨α|β⟩, mode by mode
    overlaps = inner.abs().square()
    expected = overlaps / overlaps.sum(-1, keepdim=True)
    assert_close(kind.weights(q, k), expected, rtol=0.0, atol=1e-6)
    assert_close(kind.attend(q, k, v), expected @ v, rtol=0.0, atol=1e-6)


def test_rotary_phases_are_the_free_evolution_of_the_modes(heads_of):
    """α_i → α_i e^{iω_i t}, with ω_i = 10000^{−2i/d}."""
    x = heads_of(0, 5, width=8)[0]
    turned = torch.complex(*rotate(x, torch.arange(5) + 3).chunk(2, -1))
    frequency = 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angle = (torch.arange(5, dtype=torch.float64) + 3).unsqueeze(-1) * frequency
    assert_close(turned, torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle))


def test_photon_numbers_begin_at_the_width_and_stay_in_range():
    kind = Coherent(2, 16)
    assert_close(kind.photons(), torch.full((2,), 16.0))
    kind.log_photons.data = torch.tensor([-20.0, 20.0])
    assert_close(kind.photons(), torch.tensor(PHOTONS))
    # Outside the range nothing leads further out, but the way back is open.
    outwards, back = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    for upstream, moves in ((outwards, False), (back, True)):
        (gradient,) = torch.autograd.grad((kind.photons() * upstream).sum(), kind.log_photons)
        assert gradient.bool().tolist() == [moves, moves]


def test_more_photons_tell_states_better_apart(heads_of):
    q, k, _ = heads_of(0, 12)
    kind = Coherent(2, 6).double()
    spread = []
    for photons in (0.5, 4.0, 32.0):
        kind.log_photons.data.fill_(math.log(photons))
        spread.append(torch.special.entr(kind.weights(q, k)).sum(-1).mean().item())
    assert spread == sorted(spread, reverse=True)


def test_lengths_do_not_matter(heads_of):
    q, k, v = heads_of(0, 9)
    kind = Coherent(2, 6).double()
    assert_close(kind.attend(3.0 * q, 0.1 * k, v), kind.attend(q, k, v))
