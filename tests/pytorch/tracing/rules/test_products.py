"""Products and distances of channels, computed weights, fake quantisation, bags of words."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import secateurs as sec

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


@pytest.mark.parametrize("name", PAIRS)
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


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_of_words_loses_columns(mode):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.EmbeddingBag(20, 8, mode=mode), nn.Linear(8, 3)

        def forward(self, x, starts):
            return self.out(self.words(x, starts))

    torch.manual_seed(0)
    model = Bag().eval()
    inputs = torch.randint(0, 20, (9,)), torch.tensor([0, 4, 7])
    small = sec.delete_channels(model, {"words": GONE}, inputs)
    assert small.words.weight.shape == (20, 5)
    with torch.no_grad():
        model.out.weight[:, GONE] = 0
        assert torch.allclose(small(*inputs), model(*inputs), atol=1e-5)


class Chomp(nn.Module):
    def forward(self, x):
        return x[:, :, :-2]


def plain_and_normed(groups, dim):
    models = []
    for norm in (lambda layer: layer, lambda layer: weight_norm(layer, dim=dim)):
        torch.manual_seed(0)
        middle = norm(nn.Conv1d(16, 24, 3, padding=2, groups=groups))
        layers = nn.Conv1d(4, 16, 1), middle, Chomp(), nn.ReLU(), nn.Conv1d(24, 3, 1)
        models.append(nn.Sequential(*layers).eval())
    return models


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_weight_norm_holds_nothing_back(groups, dim):
    plain, normed = plain_and_normed(groups, dim)
    x = torch.randn(2, 4, 20)
    networks = [sec.trace(model, x) for model in (plain, normed)]
    sizes = [sorted(len(group) for group in network.groups) for network in networks]
    assert sizes[0] == sizes[1]
    shapes = []
    for model, network in zip((plain, normed), networks, strict=True):
        cut = network.cut({group.name: range(len(group) // 2) for group in network.groups})
        shapes.append(sec.apply(model, cut, x, network=network)[1].weight.shape)
    assert shapes[0] == shapes[1] == ((12, 8, 3) if groups == 1 else (6, 2, 3))
    if dim == 0 and groups == 1:  # each filter's length is over what it reads: exact for outputs
        only = sec.prune(normed, x, sec.Budget(channels=0.5), skip=("0",))
        plain[1].weight.data.copy_(normed[1].weight)
        plain[1].bias.data.copy_(normed[1].bias)
        with torch.no_grad():
            plain[4].weight[:, list(only.cut.tensors["4.weight"].removed[1])] = 0
            assert torch.allclose(only.model(x), plain(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_model_trained_for_quantisation_is_cut_with_its_observers():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    model = nn.Sequential(*layers).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    model = torch.ao.quantization.prepare_qat(model)
    x = torch.rand(2, 3, 8, 8)
    model(x)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = sec.delete_channels(model, {"0": GONE}, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name in ("scale", "zero_point"):
        kept = getattr(model[0].weight_fake_quant, name)[KEPT]
        assert torch.equal(getattr(small[0].weight_fake_quant, name), kept)
    # By hand, without observers: the filters that stay are rounded as they were.
    for one in (model, small):
        one.apply(torch.ao.quantization.disable_observer)
    with torch.no_grad():
        assert torch.allclose(small[0](x), model[0](x)[:, KEPT], atol=1e-6)


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
