import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.traced import check_cut_of_everything, conv, groups_of, image, trace


def channels_of(network):
    return {group.name: len(group) for group in network.groups}


def agree(small, dense, *inputs):
    """Whether two models of random weights say the same."""
    with torch.no_grad():
        one, other = small(*inputs), dense(*inputs)
    assert other.abs().max() > 1e-2
    return torch.allclose(one, other, atol=1e-6)


class Heads(nn.Module):
    """Attention with several query heads for each head of keys and values."""

    def __init__(self, queries, shared, mask=None):
        super().__init__()
        self.mask = mask
        self.q = nn.Linear(6, queries * 4)
        self.k, self.v = (nn.Linear(6, shared * 4) for _ in range(2))
        self.out = nn.Linear(queries * 4, 3)

    def forward(self, x):
        q, k, v = (
            make(x).unflatten(-1, (-1, 4)).transpose(1, 2) for make in (self.q, self.k, self.v)
        )
        grouped = q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(q, k, v, self.mask, enable_gqa=grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))


MASKS = {
    "none": lambda: None,
    "causal": lambda: torch.ones(5, 5, dtype=torch.bool).tril(),
    "learned for each head": lambda: nn.Parameter(torch.randn(6, 5, 5)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_head_of_keys_goes_with_all_its_queries(mask):
    model, x = Heads(6, 3, MASKS[mask]()).eval(), torch.randn(2, 5, 6)
    network = sec.trace(model, x)
    found = channels_of(network)
    assert sorted(found.values()) == [2, 3]
    name = next(name for name, number in found.items() if number == 3)
    small = sec.apply(model, network.cut({name: [1]}), x, network=network)
    heads = torch.arange(24).view(6, 4)
    assert torch.equal(small.k.weight, model.k.weight[heads[[0, 2]].flatten()])
    assert torch.equal(small.q.weight, model.q.weight[heads[[0, 1, 4, 5]].flatten()])
    if mask == "learned for each head":
        assert torch.equal(small.mask, model.mask[[0, 1, 4, 5]])
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.out.weight[:, heads[[2, 3]].flatten()] = 0
    assert agree(small, dense, x)


def test_one_query_of_every_head_of_keys_goes():
    model, x = Heads(6, 2).eval(), torch.randn(2, 5, 6)
    network = sec.trace(model, x)
    name = next(name for name, number in channels_of(network).items() if number == 3)
    small = sec.apply(model, network.cut({name: [1]}), x, network=network)
    heads = torch.arange(24).view(6, 4)
    assert torch.equal(small.q.weight, model.q.weight[heads[[0, 2, 3, 5]].flatten()])
    assert torch.equal(small.k.weight, model.k.weight)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.out.weight[:, heads[[1, 4]].flatten()] = 0
    assert agree(small, dense, x)


@pytest.mark.parametrize("shared", [6, 3])
def test_attention_costs_two_products_of_every_query_head(shared):
    model, x = Heads(6, shared).eval(), torch.randn(2, 5, 6)
    projections = 10 * 6 * (24 + 2 * 4 * shared) + 10 * 24 * 3
    products = 2 * (2 * 6 * 5 * 5 * 4)
    assert sec.trace(model, x).cost().macs == projections + products


def test_heads_that_share_a_fixed_one_stay():
    class Fixed(Heads):
        def forward(self, x):
            q = self.q(x).unflatten(-1, (-1, 4)).transpose(1, 2)
            keys = torch.linspace(-1, 1, 120).view(1, 2, 15, 4)
            mixed = F.scaled_dot_product_attention(q, keys, keys, enable_gqa=True)
            return self.out(mixed.transpose(1, 2).flatten(2))

    network = sec.trace(Fixed(6, 2).eval(), torch.randn(2, 5, 6))
    assert not network.groups
    reasons = [reason for one in network.frozen for reason in one.reasons]
    assert any("grouped-query attention with frozen heads" in reason for reason in reasons)


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


GONE = [1, 4, 6]


KEPT = [0, 2, 3, 5, 7]


class Pair(nn.Module):
    """Two layers of as many neurons, and what is made of both."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(5, 8), nn.Linear(5, 8), function

    def forward(self, x):
        return self.function(self.a(x), self.b(x))


PAIRS = {
    "vdot": lambda a, b: torch.vdot(a[0], b[1]),
    "inner": torch.inner,
    "cdist": torch.cdist,
    "cdist, by products": lambda a, b: torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist"),
    "cdist, absolute": lambda a, b: torch.cdist(a, b, p=1),
    "pairwise distance": lambda a, b: F.pairwise_distance(a, b, eps=0),
    "cosine similarity": lambda a, b: F.cosine_similarity(a, b, dim=1),
    "multi_dot": lambda a, b: torch.linalg.multi_dot([a, b.T, X, X.T]),
    "addmm_": lambda a, b: torch.zeros(6, 6).addmm_(a, b.T),
    "addbmm": lambda a, b: torch.addbmm(torch.ones(6, 6), a[None], b.T[None]),
    "addmv_": lambda a, b: torch.ones(6).addmv_(a, b[2]),
    "tensordot": lambda a, b: torch.tensordot(a, b, dims=([1], [1])),
}


DISTANCES = ("cdist", "cdist, by products", "cdist, absolute")
"""No weight of these can be set to zero so that a distance leaves a channel out."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.read_without_weights if name in DISTANCES else ())
        for name in PAIRS
    ],
)
def test_channels_that_are_summed_over_go_from_both(name):
    torch.manual_seed(0)
    model = Pair(PAIRS[name]).eval()
    small = sec.delete_channels(model, {"a": GONE}, X)
    assert small.a.out_features == small.b.out_features == 5
    with torch.no_grad():
        halves = [layer(X)[:, KEPT] for layer in (model.a, model.b)]
        assert torch.allclose(small(X), PAIRS[name](*halves), atol=1e-5)


class Crossed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 4)
        self.cross, self.out = nn.Bilinear(8, 4, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.out(self.cross(self.a(x), self.b(x)))


def test_a_bilinear_layer_loses_channels_of_either_input_and_of_its_own():
    torch.manual_seed(0)
    model = Crossed().eval()
    small = sec.delete_channels(model, {"a": GONE, "b": [2], "cross": [0, 5]}, X)
    assert small.cross.weight.shape == (5, 5, 3)
    assert (small.cross.in1_features, small.cross.in2_features, small.cross.out_features) == (
        5,
        3,
        5,
    )
    with torch.no_grad():
        weight = model.cross.weight[[1, 2, 3, 4, 6]][:, KEPT][:, :, [0, 1, 3]]
        a, b = model.a(X)[:, KEPT], model.b(X)[:, [0, 1, 3]]
        found = torch.einsum("ni,oij,nj->no", a, weight, b) + model.cross.bias[[1, 2, 3, 4, 6]]
        expected = found @ model.out.weight[:, [1, 2, 3, 4, 6]].T + model.out.bias
        assert torch.allclose(small(X), expected, atol=1e-5)


class Mixture(nn.Module):
    """Experts as one tensor each, rows sorted by expert and multiplied stretch by stretch."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 3)
        self.up = nn.Parameter(torch.randn(3, 16, 24) / 4)
        self.down = nn.Parameter(torch.randn(3, 24, 16) / 4)

    def forward(self, x, ends):
        h = self.first(x)
        inner = torch._grouped_mm(h, self.up, offs=ends).relu()
        return self.last(h + torch._grouped_mm(inner, self.down, offs=ends))


@pytest.mark.skipif(
    not hasattr(torch, "_grouped_mm"), reason="PyTorch 2.6 has no grouped matrix product"
)
def test_experts_lose_channels_of_their_stream_and_of_their_own():
    torch.manual_seed(0)
    model, ends = Mixture().eval(), torch.tensor([2, 3, 6], dtype=torch.int32)
    network = sec.trace(model, (X, ends))
    assert sorted(len(group) for group in network.groups) == [16, 24]
    half = {group.name: range(0, len(group), 2) for group in network.groups}
    small = sec.apply(model, network.cut(half), (X, ends), network=network)
    assert small.up.shape == (3, 8, 12)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.up[:, ::2] = 0
        dense.down[:, ::2] = 0
        dense.last.weight[:, ::2] = 0
        assert torch.allclose(small(X, ends), dense(X, ends), atol=1e-5)


def test_a_grouped_convolution_offers_groups_and_channels_inside():
    model, network = trace(
        lambda m, x: m.head(m.grouped(m.a(x)).mean((2, 3))),
        a=conv(3, 8),
        grouped=conv(8, 12, groups=4),
        head=nn.Linear(12, 2),
    )
    found = groups_of(network)
    assert found["a/4x2"][0] == 4  # four groups, two inputs and three filters each
    assert found["a/4x2"][1]["grouped.weight", 0] == 3
    assert found["a/2x4"][0] == 2  # two inputs in each group, four groups
    assert found["a/2x4"][1]["grouped.weight", 1] == 1
    assert found["grouped/3x4"][0] == 3
    small = check_cut_of_everything(model, network, image())
    assert (small.grouped.groups, small.grouped.in_channels, small.grouped.out_channels) == (
        3,
        3,
        6,
    )
    assert small.grouped.weight.shape == (6, 1, 3, 3)


def test_a_depthwise_convolution_belongs_to_its_input():
    model, network = trace(
        lambda m, x: m.b(m.depthwise(m.a(x))),
        a=conv(3, 6),
        depthwise=conv(6, 6, groups=6),
        b=conv(6, 2),
    )
    (group,) = network.groups
    assert {m.tensor for m in group.members} == {
        "a.weight",
        "a.bias",
        "depthwise.weight",
        "depthwise.bias",
        "b.weight",
    }
    small = check_cut_of_everything(model, network, image())
    assert (small.depthwise.groups, small.depthwise.in_channels) == (4, 4)


def test_a_depthwise_multiplier():
    model, network = trace(
        lambda m, x: m.b(m.depthwise(m.a(x))),
        a=conv(3, 6),
        depthwise=conv(6, 12, groups=6),
        b=conv(12, 2),
    )
    assert {name: count for name, (count, _) in groups_of(network).items()} == {
        "a": 6,
        "depthwise/2x6": 2,
    }
    check_cut_of_everything(model, network, image())


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_transposed_convolutions(groups):
    model, network = trace(
        lambda m, x: m.b(m.up(m.a(x))),
        a=conv(3, 6),
        up=nn.ConvTranspose2d(6, 6, 2, stride=2, groups=groups),
        b=conv(6, 2),
    )
    assert network.groups
    check_cut_of_everything(model, network, image())


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_sequences_and_volumes(rank):
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[rank]
    model, network = trace(
        lambda m, x: m.b(F.relu(m.norm(m.a(x)))),
        torch.randn(1, 3, *[6] * rank),
        a=kind(3, 6, 3),
        norm=norm(6),
        b=kind(6, 2, 1),
    )
    assert [len(group) for group in network.groups] == [6]
    check_cut_of_everything(model, network, (torch.randn(1, 3, *[6] * rank),))


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: x @ w.t(),
        lambda x, w: torch.mm(x, w.t()),
        lambda x, w: torch.addmm(torch.zeros(w.shape[0]), x, w.t()),
        lambda x, w: torch.einsum("bi,oi->bo", x, w),
        lambda x, w: torch.einsum("...i,oi->...o", x, w),
        lambda x, w: torch.einsum("...i, oi", x, w),
        lambda x, w: torch.einsum("bbi,oi->bo", x.expand(4, 4, -1), w),
        lambda x, w: torch.einsum(x, [0, 1], w, [2, 1], [0, 2]),
        lambda x, w: (w @ x.t()).t(),
        lambda x, w: torch.matmul(x[:, None], w.t())[:, 0],
        lambda x, w: torch.bmm(x[:, None], w.t().expand(x.shape[0], -1, -1))[:, 0],
    ],
)
def test_matrix_products_of_every_kind(multiply):
    model, network = trace(
        lambda m, x: F.linear(F.relu(multiply(F.relu(m.a(x)), m.w)), m.out),
        torch.randn(4, 3),
        a=nn.Linear(3, 5),
        w=nn.Parameter(torch.randn(6, 5)),
        out=nn.Parameter(torch.randn(2, 6)),
    )
    assert sorted(len(group) for group in network.groups) == [5, 6]
    check_cut_of_everything(model, network, (torch.randn(4, 3),))


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_kernel_keeps_its_size_though_its_weight_is_measured(comes_first):
    """Before or after the convolution, over all axes but that of the filters."""

    def forward(m, x):
        length = m.w.square().sum((1, 2, 3)) if comes_first else None
        h = F.conv2d(m.a(x), m.w, padding=1)
        length = m.w.square().sum((1, 2, 3)) if length is None else length
        return m.b(h / length.sqrt()[:, None, None])

    x = torch.rand(2, 3, 5, 5)
    w = nn.Parameter(torch.randn(6, 4, 3, 3))
    model, network = trace(forward, x, a=nn.Conv2d(3, 4, 1), w=w, b=nn.Conv2d(6, 2, 1))
    assert sorted(len(group) for group in network.groups) == [4, 6]
    check_cut_of_everything(model, network, (x,))
