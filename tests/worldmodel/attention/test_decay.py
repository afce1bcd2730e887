"""Sums of log γ begin anew with every episode, to the last bit, and cost little more than one pass."""

import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from qdreamer.worldmodel.attention.decay import running_total
from qdreamer.worldmodel.attention.kernel import segment_ids


def test_totals_of_episodes():
    generator = torch.Generator().manual_seed(0)
    log_decay = -torch.rand(3, 2, 90, generator=generator)
    is_first = (torch.rand(3, 90, generator=generator) < 0.1).double()
    segments = segment_ids(is_first)
    total, sums = running_total(log_decay, segments.unsqueeze(1)), torch.zeros(3, 2, dtype=torch.float64)
    for t in range(90):
        sums = sums * (1.0 - is_first[:, t, None]) + log_decay[:, :, t].double()
        assert_close(total[..., t], sums, rtol=1e-12, atol=1e-12)
    alone = running_total(log_decay[:1, :, is_first[0].nonzero()[-1, 0] :])
    assert_close(total[:1, :, -alone.shape[-1] :], alone, rtol=1e-12, atol=1e-12)


def test_nothing_before_an_episode_moves_its_last_bit():
    generator = torch.Generator().manual_seed(0)
    log_decay, other = -torch.rand(2, 1, 50, generator=generator)
    segments = (torch.arange(50) >= 17).long().unsqueeze(0)
    plain = running_total(log_decay, segments)
    changed = running_total(torch.where(segments == 0, 1e8 * other, log_decay), segments)
    assert torch.equal(plain[:, 17:], changed[:, 17:])


def test_a_long_past_needs_no_table_of_pairs():
    log_decay, segments = torch.full((1, 1, 50_000), -1e-3), torch.zeros(1, 1, 50_000, dtype=torch.long)
    with FlopCounterMode(display=False) as products:
        total = running_total(log_decay, segments)
    assert products.get_total_flops() == 0
    assert_close(total[0, 0, -1].item(), -50.0, rtol=1e-6, atol=0.0)
