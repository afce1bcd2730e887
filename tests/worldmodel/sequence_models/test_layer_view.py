"""Numbers of a layer's view whose values are known."""

import torch
from torch.testing import assert_close

from qdreamer.worldmodel.sequence_models.layer_view import LayerView

STEPS = 6


def test_age_and_share_beyond_of_known_weights():
    itself = torch.eye(STEPS)
    before = torch.diag(torch.ones(STEPS - 2), -2)  # two steps before; the first two attend to themselves
    before[0, 0] = before[1, 1] = 1.0
    view = LayerView(torch.stack([itself, before, 0.5 * (itself + before)]).unsqueeze(0), {})
    share = (STEPS - 2) / STEPS
    assert_close(view.age(), torch.tensor([0.0, 2.0 * share, share]))
    assert_close(view.share_beyond(1), torch.tensor([0.0, share, share / 2.0]))
    assert_close(view.share_beyond(2), torch.tensor([0.0, share, share / 2.0]))
    assert_close(view.share_beyond(3), torch.zeros(3))
