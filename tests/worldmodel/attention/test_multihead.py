"""QuantumMultiheadAttention beside torch's own, and its step form."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from qdreamer.worldmodel.attention.config import ATTENTION
from qdreamer.worldmodel.attention.multihead import QuantumMultiheadAttention

BATCH, QUERIES, KEYS, WIDTH, HEADS = 3, 5, 7, 12, 2
ATTN_MASKS = ("none", "bool", "float", "bool-per-head", "float-per-head")
PADDINGS = ("none", "bool", "float")
KINDS = ("softmax", "coherent", "born", "uniform")


def make(kind):
    torch.manual_seed(0)
    return QuantumMultiheadAttention(16, 2, batch_first=True, kind=kind)


def attn_mask(form, queries, keys):
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH * HEADS, queries, keys) if form.endswith("per-head") else (queries, keys)
    if form == "none":
        return None
    if form.startswith("float"):
        return torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.4
    mask[..., 0] = False  # every query may see a key
    return mask


def padding_mask(form, keys):
    if form == "none":
        return None
    padded = torch.zeros(BATCH, keys, dtype=torch.bool)
    padded[1, -2:] = True
    padded[2, 3] = True
    return torch.zeros(BATCH, keys).masked_fill(padded, -torch.inf) if form == "float" else padded


def pair(**arguments):
    torch.manual_seed(0)
    torchs = nn.MultiheadAttention(WIDTH, HEADS, **arguments)
    for parameter in torchs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = QuantumMultiheadAttention(WIDTH, HEADS, **arguments)
    ours.load_state_dict(torchs.state_dict())
    return torchs, ours


def close(x, y, scale=1.0):
    """To 1e-6 of the scale in float32, to 1e-12 in float64."""
    assert x.dtype == y.dtype
    assert (x - y).abs().max().item() <= scale * (1e-6 if x.dtype == torch.float32 else 1e-12)


def converted(x, dtype):
    return x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x


def check_equal(torchs, ours, inputs, **arguments):
    """Outputs, weights and all gradients, in both precisions."""
    for dtype in (torch.float32, torch.float64):
        results = []
        for module in (torchs.to(dtype), ours.to(dtype)):
            leaves = [x.to(dtype).clone().requires_grad_() for x in inputs]
            out, weights = module(*leaves, **{k: converted(x, dtype) for k, x in arguments.items()})
            parameters = list(dict(sorted(module.named_parameters())).values())
            total = (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum()
            results.append([out, weights, *torch.autograd.grad(total, leaves + parameters)])
        (out, weights, *gradients), (our_out, our_weights, *our_gradients) = results
        close(out, our_out)
        if weights is None:
            assert our_weights is None
        else:
            close(weights, our_weights)
        scale = max(1.0, *(g.abs().max().item() for g in gradients))  # some are sums that cancel to zero
        for gradient, our_gradient in zip(gradients, our_gradients, strict=True):
            close(gradient, our_gradient, scale)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("form", ATTN_MASKS)
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_softmax_equals_torch_for_all_masks(form, padding, need_weights):
    torchs, ours = pair(batch_first=True)
    inputs = [torch.randn(BATCH, n, WIDTH) for n in (QUERIES, KEYS, KEYS)]
    check_equal(
        torchs, ours, inputs, attn_mask=attn_mask(form, QUERIES, KEYS),
        key_padding_mask=padding_mask(padding, KEYS), need_weights=need_weights,
    )  # fmt: skip


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True}, {"add_zero_attn": True},
                                   {"add_bias_kv": True, "add_zero_attn": True}])  # fmt: skip
@pytest.mark.parametrize("widths", [{}, {"kdim": 4, "vdim": 9}])
def test_softmax_equals_torch_for_all_constructions(batch_first, bias, extra, widths):
    torchs, ours = pair(batch_first=batch_first, bias=bias, **extra, **widths)
    sizes = (QUERIES, WIDTH), (KEYS, widths.get("kdim", WIDTH)), (KEYS, widths.get("vdim", WIDTH))
    inputs = [torch.randn(BATCH, n, d) if batch_first else torch.randn(n, BATCH, d) for n, d in sizes]
    for form, padding, average in itertools.product(
        ("none", "bool-per-head"), ("none", "bool"), (True, False)
    ):
        check_equal(
            torchs, ours, inputs, attn_mask=attn_mask(form, QUERIES, KEYS),
            key_padding_mask=padding_mask(padding, KEYS), average_attn_weights=average,
        )  # fmt: skip


@pytest.mark.parametrize("form", ["none", "bool", "float"])
def test_softmax_equals_torch_without_a_batch(form):
    torchs, ours = pair()
    inputs = [torch.randn(n, WIDTH) for n in (QUERIES, KEYS, KEYS)]
    padding = torch.arange(KEYS) == 3
    check_equal(torchs, ours, inputs, attn_mask=attn_mask(form, QUERIES, KEYS))
    padding = None if form == "float" else padding
    check_equal(
        torchs, ours, inputs, attn_mask=attn_mask(form, QUERIES, KEYS), key_padding_mask=padding,
        need_weights=False,
    )  # fmt: skip


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", [False, True])
def test_softmax_equals_torch_with_the_causal_hint(need_weights, padding):
    torchs, ours = (module.double() for module in pair(batch_first=True))
    x = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64, requires_grad=True)
    later = torch.ones(KEYS, KEYS, dtype=torch.bool).triu(1)
    arguments = {
        "is_causal": True, "need_weights": need_weights,
        "key_padding_mask": padding_mask("bool", KEYS) if padding else None,
    }  # fmt: skip
    expected, hinted, alone = (
        module(x, x, x, attn_mask=mask, **arguments)[0]
        for module, mask in ((torchs, later), (ours, later), (ours, None))
    )
    gradient = torch.autograd.grad(expected.square().sum(), x)[0]
    for out in (hinted, alone):
        close(expected, out)
        close(gradient, torch.autograd.grad(out.square().sum(), x)[0], gradient.abs().max().item())


@pytest.mark.parametrize("kind", ["softmax", "coherent", "born"])
def test_dropout_drops_weights_in_training_only(kind):
    torch.manual_seed(0)
    ours = QuantumMultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=True, kind=kind)
    x = torch.randn(BATCH, 40, WIDTH)
    _, exact = ours.eval()(x, x, x, average_attn_weights=False)
    assert_close(exact.sum(-1), torch.ones_like(exact[..., 0]))
    ours.train()
    _, weights = ours(x, x, x, average_attn_weights=False)
    dropped = weights == 0
    assert 0.45 < dropped.float().mean() < 0.55
    assert_close(weights[~dropped], 2.0 * exact[~dropped])
    out = [ours(x, x, x, need_weights=False)[0] for _ in range(2)]
    assert not torch.equal(*out)
    # What is dropped is made up for: the mean over many draws is the output without dropout.
    ours.out_proj.bias.data.zero_()
    mean = torch.stack([ours(x, x, x, need_weights=False)[0] for _ in range(400)]).mean(0)
    exact_out = ours.eval()(x, x, x, need_weights=False)[0]
    assert (mean - exact_out).norm() < 0.1 * exact_out.norm()


@pytest.mark.parametrize("kind", ["softmax", "coherent", "born"])
def test_an_encoder_layer_uses_the_kind_in_evaluation_too(kind):
    """torch's fused encoder would compute softmax attention from our weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, dropout=0.0, batch_first=True)
    layer.self_attn = QuantumMultiheadAttention(WIDTH, HEADS, batch_first=True, kind=kind)
    x = torch.randn(BATCH, KEYS, WIDTH)
    trained = layer(x)
    with torch.no_grad():
        assert_close(layer.eval()(x), trained)


@pytest.mark.parametrize("form", ["bool", "float"])
def test_a_query_without_keys_gets_the_output_of_nothing(form):
    _, ours = pair(batch_first=True)
    x = torch.randn(BATCH, KEYS, WIDTH)
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[1] = True
    if form == "float":
        padding = torch.zeros(BATCH, KEYS).masked_fill(padding, -torch.inf)
    for need_weights in (True, False):
        out, _ = ours(x, x, x, key_padding_mask=padding, need_weights=need_weights)
        assert_close(out[1], ours.out_proj.bias.expand(KEYS, -1))
        assert out.isfinite().all()


VARIANTS = [
    ("softmax", {}), ("softmax", {"rotary": True}), ("softmax", {"rotary": True, "decay": True}),
    ("coherent", {"rotary": True}), ("coherent", {"rotary": True, "decay": True}),
    ("born", {}), ("born", {"rotary": True, "decay": True}),
    ("born", {"rotary": True, "decay": True, "complex": True}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
@settings(max_examples=10)
@given(st.lists(st.booleans(), min_size=24, max_size=24), st.integers(0, 1000))
def test_steps_equal_the_causal_forward(kind, options, flags, seed):
    torch.manual_seed(seed)
    module = QuantumMultiheadAttention(WIDTH, HEADS, batch_first=True, kind=kind, **options).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    is_first = torch.tensor(flags, dtype=torch.float64).view(2, 12)
    whole, _ = module(x, x, x, is_first=is_first, need_weights=False)
    with_weights, weights = module(x, x, x, is_first=is_first)
    assert_close(with_weights, whole)
    assert not weights.triu(1).any()
    cache = module.begin(2, room=12)
    for t in range(12):
        out, cache = module.step(x[:, t], cache, is_first[:, t])
        assert_close(out, whole[:, t], rtol=1e-10, atol=1e-10)


def test_rotary_positions_matter_and_decay_forgets():
    torch.manual_seed(0)
    x = torch.randn(1, 10, WIDTH)
    plain = QuantumMultiheadAttention(WIDTH, HEADS, batch_first=True, kind="coherent")
    turned = QuantumMultiheadAttention(WIDTH, HEADS, batch_first=True, kind="coherent", rotary=True)
    turned.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(x, x, x)[0], turned(x, x, x)[0])
    order = torch.randperm(10)
    y = x[:, order]
    assert_close(plain(y, y, y)[0], plain(x, x, x)[0][:, order])
    fading = QuantumMultiheadAttention(WIDTH, HEADS, batch_first=True, kind="born", decay=True)
    with torch.no_grad():
        fading.gate.bias.fill_(-8.0)  # γ = 3e-4
    _, weights = fading(x, x, x, is_causal=True)
    assert (weights.diagonal(dim1=-2, dim2=-1) > 0.8).all()


def test_a_full_cache_and_what_does_not_go_together_are_refused():
    module = QuantumMultiheadAttention(WIDTH, HEADS)
    x = torch.zeros(1, WIDTH)
    _, cache = module.step(x, module.begin(1, room=1))
    with pytest.raises(ValueError, match="larger `room`"):
        module.step(x, cache)
    for arguments, message in (
        ({"embed_dim": 10, "num_heads": 3}, "must divide embed_dim"),
        ({"kind": "born", "add_zero_attn": True}, "zero is none"),
        ({"kind": "sofmax"}, "did you mean softmax"),
        ({"decay": True, "add_bias_kv": True}, "leave out"),
    ):
        with pytest.raises(ValueError, match=message):
            QuantumMultiheadAttention(**{"embed_dim": 12, "num_heads": 2, **arguments})
    x = torch.randn(4, 1, WIDTH)
    with pytest.raises(ValueError, match="pass is_causal=True"):
        QuantumMultiheadAttention(WIDTH, HEADS, decay=True)(x, x, x)
    with pytest.raises(ValueError, match="give a mask"):
        module(x[:2], x, x, is_causal=True)
    with pytest.raises(TypeError, match="attn_mask must be boolean or floating-point"):
        module(x, x, x, attn_mask=torch.zeros(4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="even head width"):
        QuantumMultiheadAttention(6, 2, rotary=True)(*(3 * [torch.randn(4, 1, 6)]))


def test_types_and_devices_are_passed_on():
    for kind in ATTENTION.names():
        if kind in ("random_keys", "ffm"):  # whose keys must not learn; which has no weights
            with pytest.raises(ValueError, match="control in sequence models"):
                QuantumMultiheadAttention(WIDTH, HEADS, kind=kind)
            continue
        width = 4 * HEADS if kind == "circuit" else WIDTH  # circuits load 2, 4, 8, … amplitudes
        module = QuantumMultiheadAttention(
            width, HEADS, dtype=torch.float64, device="cpu", kind=kind, decay=True
        )
        assert {p.dtype for p in module.parameters()} == {torch.float64}


def test_state_dict_goes_both_ways():
    torchs, ours = pair(add_bias_kv=True)
    nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True).load_state_dict(ours.state_dict())
    coherent = QuantumMultiheadAttention(WIDTH, HEADS, add_bias_kv=True, kind="coherent")
    missing = coherent.load_state_dict(torchs.state_dict(), strict=False)
    assert missing.missing_keys == ["kind.log_photons"]
    assert not missing.unexpected_keys


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_causal_without_a_mask(kind):
    attention = make(kind).eval()
    x = torch.randn(2, 5, 16)
    whole = attention(x, x, x, is_causal=True, need_weights=False)[0]
    assert whole.isfinite().all()
    part = attention(x[:, :3], x[:, :3], x[:, :3], is_causal=True, need_weights=False)[0]
    assert_close(whole[:, :3], part)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_in_an_encoder_whose_attention_was_swapped(kind):
    """The encoder decided for nested tensors when it was built."""
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 1).eval()
    encoder.layers[0].self_attn = make(kind).eval()
    x, padding = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        got = encoder(x, src_key_padding_mask=padding)
        rows = [encoder(x[:1]), encoder(x[1:, :3])]
    assert_close(got[:1], rows[0])
    assert_close(got[1:, :3], rows[1])


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(16,)] * 3, "two axes"), ([(2, 3, 5, 16)] * 3, "two axes"),
        ([(2, 5, 16), (5, 16), (5, 16)], "two axes"), ([(2, 5, 16), (1, 5, 16), (1, 5, 16)], "batches"),
        ([(2, 5, 16), (2, 6, 16), (2, 5, 16)], "as many values"), ([(2, 5, 15)] * 3, "last axes must be 16"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(shapes, words):
    with pytest.raises(ValueError, match=words):
        make("coherent")(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("kind", ["softmax", "coherent", "born", "uniform"])
def test_gradients_of_single_examples_by_vmap(kind):
    attention = make(kind).double()
    parameters = dict(attention.named_parameters())
    x = torch.randn(3, 5, 16, dtype=torch.float64)

    def loss(parameters, row):
        inputs = (row[None],) * 3
        out, _ = torch.func.functional_call(
            attention, parameters, inputs, {"is_causal": True, "need_weights": False}
        )
        return out.square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, row in enumerate(x):
        alone = torch.autograd.grad(loss(parameters, row), list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            assert_close(together[name][i], gradient, rtol=1e-9, atol=1e-12)
