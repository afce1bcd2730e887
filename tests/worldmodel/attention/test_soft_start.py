"""As a memory, coherent attention starts as soft as softmax; in the transformer it starts sharp."""

import pytest
import torch
from torch.testing import assert_close

from qdreamer.worldmodel.attention.coherent import Coherent
from qdreamer.worldmodel.attention.softmax import Softmax
from qdreamer.worldmodel.sequence_models.interface import make_sequence


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_softened_logits_deviate_as_softmaxs_do(width):
    q, k = torch.randn(2, 1, 2, 400, width, generator=torch.Generator().manual_seed(0))
    coherent, softmax = Coherent(2, width), Softmax(2, width)
    coherent.soften()
    soft = coherent.scores(coherent.encode(q), coherent.encode(k)).std()
    assert_close(soft, softmax.scores(q, k).std(), rtol=0.05, atol=0.0)
    assert_close(soft, torch.ones(()), rtol=0.05, atol=0.0)


@pytest.mark.parametrize("width", [8, 16, 32])
def test_only_memories_start_soft(make_config, width):
    for sequence, photons in (("gru_attention", width**0.5 / 2.0), ("transformer", float(width))):
        config = make_config(f"sequence={sequence}", "attention=coherent", f"sequence.head={width}")
        model = make_sequence(config.sequence, config.attention, 12, 2)
        (kind,) = (module for module in model.modules() if isinstance(module, Coherent))
        assert_close(kind.photons(), torch.full((kind.heads,), photons))
