"""Fast and Forgetful Memory: the equations step by step, where it starts, and what it does not do."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.worldmodel.attention.config import make_kind
from qdreamer.worldmodel.attention.kernel import segment_ids

BATCH, HEADS, STEPS, WIDTH, FREQUENCIES = 2, 2, 11, 6, 3
seeds = st.integers(0, 2**31)
resets = st.lists(st.booleans(), min_size=BATCH * STEPS, max_size=BATCH * STEPS).map(
    lambda flags: torch.tensor(flags, dtype=torch.float64).view(BATCH, STEPS)
)


@pytest.fixture(scope="module")
def ffm():
    kind = make_kind("ffm", HEADS, WIDTH, frequencies=FREQUENCIES).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in kind.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return kind


def slowly(ffm, q, k, v, segments):
    """The module's two equations, one number at a time; nothing is there when an episode begins."""
    alpha, omega = ffm.log_rate.exp().squeeze(-1), ffm.log_frequency.exp()
    out = torch.zeros_like(v)
    for b in range(BATCH):
        for h in range(HEADS):
            state = torch.zeros(WIDTH, FREQUENCIES, dtype=torch.complex128)
            for n in range(STEPS):
                if n and segments[b, n] != segments[b, n - 1]:
                    state = torch.zeros_like(state)
                new = v[b, h, n] / (1.0 + (-k[b, h, n]).exp())
                state = torch.exp(-alpha[h, :, None] - 1j * omega) * state + new[:, None]
                found = ffm.bias[h, 0].clone()
                for j in range(WIDTH):
                    for f in range(FREQUENCIES):
                        at = 2 * (j * FREQUENCIES + f)
                        found += state[j, f].real * ffm.weight[h, at]
                        found += state[j, f].imag * ffm.weight[h, at + 1]
                normed = (found - found.mean()) / (found.var(correction=0) + 1e-5).sqrt()
                out[b, h, n] = normed / (1.0 + (-q[b, h, n]).exp())
    return out


@torch.no_grad()
@given(seeds, resets)
def test_the_scan_is_the_equation(ffm, heads_of, seed, is_first):
    q, k, v = heads_of(seed, STEPS, BATCH, HEADS, WIDTH, WIDTH)
    segments = segment_ids(is_first)
    expected = slowly(ffm, q, k, v, segments)
    assert_close(ffm.attend_causal(q, k, v, segments), expected, rtol=1e-10, atol=1e-10)
    state, found = ffm.initial(BATCH, WIDTH, v), []
    for t in range(STEPS):
        out, state = ffm.step(q[:, :, t], k[:, :, t], v[:, :, t], state, is_first=is_first[:, t])
        found.append(out)
        at = ffm.state_at(k, v, torch.arange(BATCH), torch.full((BATCH,), t), segments)
        assert_close(at, state, rtol=1e-10, atol=1e-10)
    assert_close(torch.stack(found, 2), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_who_only_asks_sees_the_steps_before(ffm, heads_of):
    q, k, v = heads_of(0, STEPS, BATCH, HEADS, WIDTH, WIDTH)
    asking = heads_of(1, 4, BATCH, HEADS, WIDTH, WIDTH)[0]
    segments = torch.zeros(BATCH, STEPS, dtype=torch.long)
    itself, before = ffm.recall(q, asking, k, v, segments).chunk(2, 2)
    assert_close(itself, ffm.attend_causal(q, k, v, segments)[:, :, -4:])
    shifted = torch.cat([q[:, :, : STEPS - 5], asking], 2)
    assert_close(before, ffm.attend_causal(shifted, k[:, :, :-1], v[:, :, :-1])[:, :, -4:])


def test_it_starts_where_the_authors_start():
    """The slowest trace keeps a hundredth of what was written 1,024 steps before; periods end there."""
    ffm = make_kind("ffm", 1, 32)
    alpha, period = ffm.log_rate.exp(), 2.0 * math.pi / ffm.log_frequency.exp()
    assert_close(torch.exp(-1024.0 * alpha[0, 0, 0]), torch.tensor(0.01), rtol=1e-4, atol=0.0)
    assert_close(alpha.max(), torch.tensor(0.67))
    assert_close(period, torch.tensor([1.0, 342.0, 683.0, 1024.0]), rtol=1e-5, atol=0.0)


def test_gradients(ffm, heads_of):
    q, k, v = (x.requires_grad_() for x in heads_of(2, 4, BATCH, HEADS, WIDTH, WIDTH))
    segments = segment_ids(torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]]))
    state = torch.randn(BATCH, HEADS, WIDTH, FREQUENCIES, 2, dtype=torch.float64, requires_grad=True)

    def attend(q, k, v, state, *_):
        return ffm.attend_causal(q, k, v, segments, state=state)

    assert torch.autograd.gradcheck(attend, [q, k, v, state, *ffm.parameters()])


@torch.no_grad()
def test_what_is_left_of_a_step_is_what_the_picture_shows(ffm, heads_of):
    """A read that sees one trace of one step falls with the distance as the weights before normalisation."""
    _, k, _ = heads_of(3, STEPS, BATCH, HEADS, WIDTH, WIDTH)
    left = ffm.scores(k, k).exp()
    one, two = (k[:, :, :1].sigmoid() * (-n * ffm.log_rate.exp().mT.unsqueeze(0)).exp() for n in (1, 2))
    assert_close(left[:, :, 1, 0], one.sum(-1).squeeze(-1))
    assert_close(left[:, :, 2, 0], two.sum(-1).squeeze(-1))


def test_gates_and_dropout_are_refused(ffm, heads_of):
    q, k, v = heads_of(4, STEPS, BATCH, HEADS, WIDTH, WIDTH)
    with pytest.raises(ValueError, match="neither decay gates nor dropout"):
        ffm.attend_causal(q, k, v, log_decay=torch.zeros(BATCH, HEADS, STEPS))
    with pytest.raises(ValueError, match="neither decay gates nor dropout"):
        ffm.attend_causal(q, k, v, dropout=0.1)
