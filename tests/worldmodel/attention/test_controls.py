"""The controls take away what they say, and nothing else."""

import torch
from torch.testing import assert_close

from qdreamer.worldmodel.attention.kernel import segment_causal, segment_ids
from qdreamer.worldmodel.sequence_models.interface import make_sequence


def test_uniform_weights_are_one_over_the_number_of_allowed_keys(make, heads_of):
    q, k, _ = heads_of(0, 7, batch=1)
    mask = segment_causal(segment_ids(torch.tensor([[0.0, 0, 0, 1, 0, 0, 0]])))
    mask &= torch.ones(7, 7, dtype=torch.bool).triu(-2)
    weights = make("uniform").weights(q, k, mask)
    alike = mask / mask.double().sum(-1, keepdim=True)
    assert_close(weights, alike.expand_as(weights), rtol=0, atol=1e-12)


def test_random_keys_never_learn_and_all_else_does(make_config):
    gradients = {}
    for name in ("coherent", "random_keys"):
        config = make_config("sequence=transformer", f"attention={name}", "sequence.layers=2")
        torch.manual_seed(0)
        model = make_sequence(config.sequence, config.attention, 12, 2)
        generator = torch.Generator().manual_seed(1)
        stoch, action = (torch.randn(3, 9, n, generator=generator) for n in (12, 2))
        h, _ = model.observe(stoch, action, torch.zeros(3, 9), model.initial(3))
        h.square().sum().backward()
        gradients[name] = {key: p.grad for key, p in model.named_parameters()}
    width = config.sequence.heads * config.sequence.head
    for key, wanted in gradients["coherent"].items():
        assert wanted is not None
        got = gradients["random_keys"][key]
        if "qkv" in key:
            assert wanted[width : 2 * width].any()
            assert not got[width : 2 * width].any()
            wanted, got = (torch.cat([g[:width], g[2 * width :]]) for g in (wanted, got))
        assert torch.equal(wanted, got), key
