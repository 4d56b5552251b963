"""Integer sizes of layers follow the axes that they count."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 4, 1), {"in_channels": 4}),
    "depthwise": (lambda: nn.Conv2d(6, 6, 1, groups=6), {"in_channels": 4, "groups": 4}),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 1), {"in_channels": 4}),
    "batch norm": (lambda: nn.BatchNorm2d(6), {"num_features": 4}),
    "instance norm": (lambda: nn.InstanceNorm2d(6, affine=True), {"num_features": 4}),
    "prelu": (lambda: nn.PReLU(6), {"num_parameters": 4}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_reader_counts_what_is_left(name):
    make, sizes = LAYERS[name]
    model = nn.Sequential(nn.Conv2d(3, 6, 1), make(), nn.Identity())
    width = model[1](model[0](torch.zeros(1, 3, 2, 2))).shape[1]
    model[2] = nn.Conv2d(width, 2, 1)
    small = sec.delete_channels(model.eval(), {"0": [1, 5]}, torch.randn(1, 3, 4, 4))
    assert small[0].out_channels == 4
    assert {key: getattr(small[1], key) for key in sizes} == sizes


def test_a_norm_over_the_last_axis_keeps_its_shape_in_step():
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)).eval()
    small = sec.delete_channels(model, {"0": [0]}, torch.randn(2, 3))
    assert small[1].normalized_shape == (5,)
    assert (small[0].out_features, small[2].in_features) == (5, 5)


class Crossing(nn.Module):
    """PyTorch's attention with nothing added to what it gives; four heads, each four wide."""

    def __init__(self, is_self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 16), nn.Linear(5, 16)
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 3)
        self.is_self = is_self

    def forward(self, x, y):
        x, y = self.first(x), self.second(y)
        x, y = (x + y, x + y) if self.is_self else (x, y)
        return self.head(self.attention(x, y, y, need_weights=False)[0])


def attend(model, x, y, kept):
    """The same written out, of the rows and columns that stay, by the dense scale."""
    a, b = model.first(x)[..., kept], model.second(y)[..., kept]
    a, b = (a + b, a + b) if model.is_self else (a, b)
    weights = model.attention.in_proj_weight.view(3, 16, 16)[:, kept][:, :, kept]
    biases = model.attention.in_proj_bias.view(3, 16)[:, kept]
    rows = zip((a, b, b), weights, biases, strict=True)
    of_head = [[i for i, n in enumerate(kept) if n // 4 == head] for head in range(4)]
    q, k, v = (F.linear(given, weight, bias) for given, weight, bias in rows)
    heads = [
        (q[..., at] @ k[..., at].transpose(-1, -2) / 4**0.5).softmax(-1) @ v[..., at]
        for at in of_head
        if at
    ]
    out = model.attention.out_proj
    mixed = F.linear(torch.cat(heads, -1), out.weight[kept][:, kept], out.bias[kept])
    return F.linear(mixed, model.head.weight[:, kept], model.head.bias)


@pytest.mark.parametrize("is_self", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_attention_alone_keeps_its_dense_scale_whichever_side_goes(is_self, side):
    torch.manual_seed(0)
    model = Crossing(is_self).eval()
    inputs = torch.randn(2, 7, 5), (torch.randn(2, 7, 5) if is_self else torch.randn(2, 6, 5))
    network = sec.trace(model, inputs)
    assert [len(group) for group in network.groups] == [4, 4]
    cut = network.cut({network.groups[side].name: [1]})
    small = sec.apply(model, cut, inputs, network=network, proof="independent")
    gone = cut.tensors["first.weight"].removed[0]
    kept = [n for n in range(16) if n not in gone]
    assert small.attention.embed_dim == 12
    with torch.no_grad():
        torch.testing.assert_close(small(*inputs), attend(model, *inputs, kept))


def test_a_transformer_of_pytorchs_own_can_be_cut():
    class Translating(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
            self.body = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)

        def forward(self, x, y):
            mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
            return self.head(self.body(self.first(x), self.first(y), tgt_mask=mask))

    torch.manual_seed(0)
    model, inputs = Translating().eval(), (torch.randn(2, 7, 5), torch.randn(2, 6, 5))
    network = sec.trace(model, inputs)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    small = sec.apply(model, cut, inputs, network=network, proof="independent")
    assert small.first.out_features < 10
    assert sec.report_of(small).params_removed > 0.6


def test_a_weight_that_is_computed_is_not_asked_for():
    """In training each look at spectral norm's weight goes on with its power iteration."""
    norm = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(nn.Linear(3, 8), norm(nn.Linear(8, 8)), nn.Linear(8, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = sec.trace(model, torch.randn(4, 3))
    sec.apply(model, sec.plan(network, sec.score(network), amount=0.3), torch.randn(4, 3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
