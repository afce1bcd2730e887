"""A step of filtering for acting: C against `observe` of that step, over episodes that begin on the way."""

import pytest
import torch
from torch.testing import assert_close

from qdreamer import native
from qdreamer.native.filter import MOST_ROWS
from qdreamer.worldmodel.sequence_models.interface import leaves
from tests.native.models import perturbed

pytestmark = pytest.mark.usefixtures("compiled")

MODELS = [
    ["agent=classical"],
    ["agent=classical", "world_model.stoch=3", "world_model.classes=5", "sequence.deter=24"],
    ["agent=hybrid"],
    ["agent=hybrid", "sequence.window=4"],
    ["agent=hybrid", "sequence.filled=false", "sequence.memory=48", "sequence.memory_hidden=21"],
    ["agent=hybrid", "attention=softmax"],
    ["agent=hybrid", "attention=random_keys", "sequence.head=8"],
]  # fmt: skip


def steps(rssm, rows, count, first=0.15):
    """Inputs (embed, action, is_first, noise) of so many steps."""
    draw = torch.Generator().manual_seed(rows)
    width = rssm.posterior.from_embed.in_features
    for t in range(count):
        yield (
            torch.randn(rows, width, generator=draw), 2.0 * torch.randn(rows, 2, generator=draw),
            (torch.rand(rows, generator=draw) < (first if t else 1.0)).float(),
            torch.rand(rows, rssm.stoch, generator=draw),
        )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("settings", MODELS, ids=" ".join)
def test_steps_are_those_of_the_modules(make_config, settings, rows):
    rssm = perturbed(make_config, *settings).rssm
    native.use(True)
    ours = theirs = rssm.initial(rows)
    differ = False
    for embed, action, is_first, noise in steps(rssm, rows, 12):
        given = native.FilterInputs(embed, action, is_first, noise, ours.state, ours.stoch)
        assert native.KERNELS["filter"].supports(None, None, rssm.native_filter(ours), given)
        features, ours = rssm.filter(embed, action, is_first, ours, noise)
        with native.without("filter"):
            expected, theirs = rssm.filter(embed, action, is_first, theirs, noise)
        assert_close(features, expected, rtol=2e-5, atol=2e-5)
        differ |= not torch.equal(features, expected)  # two implementations
        for one, other in zip(leaves(ours), leaves(theirs), strict=True):
            assert_close(one, other, rtol=2e-5, atol=2e-5)
    native.use(False)
    assert differ


def test_many_rows_are_left_to_torch(make_config):
    rssm = perturbed(make_config, "agent=classical").rssm
    native.use(True)
    for rows, taken in (MOST_ROWS, True), (MOST_ROWS + 1, False):
        carry = rssm.initial(rows)
        inputs = next(steps(rssm, rows, 1))
        given = native.FilterInputs(*inputs, carry.state, carry.stoch)
        assert native.KERNELS["filter"].supports(None, None, rssm.native_filter(carry), given) is taken
    native.use(False)
