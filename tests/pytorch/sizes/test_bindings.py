"""Attributes bound to channels: where they are kept, and bindings that are undone."""

import copy
import dataclasses
import functools
import types
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
HEADS, SIZE = 2, 8


@dataclasses.dataclass(frozen=True)
class Settings:
    heads: int = HEADS
    size: int = SIZE
    unrelated: int = 8


Shape = namedtuple("Shape", "heads size")


class Attention(nn.Module):
    """Attention whose head sizes are kept in some place and read from there."""

    def __init__(self, kept, get):
        super().__init__()
        self.kept, self.get = kept, get
        self.q, self.k, self.v = (nn.Linear(6, HEADS * SIZE) for _ in range(3))
        self.out = nn.Linear(HEADS * SIZE, 3)

    def forward(self, x):
        shape = (*x.shape[:2], *self.get(self.kept))
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.4)
        return self.out(mixed.transpose(1, 2).flatten(2))


def by_name(kept):
    return kept.heads, kept.size


def by_key(kept):
    return kept["heads"], kept["size"]


def sizes_given(*, heads, size):
    return heads, size


class Holder(nn.Module):
    """A layer that only keeps sizes; the one that holds it reads them."""

    def __init__(self):
        super().__init__()
        self.heads, self.size, self.unrelated = HEADS, SIZE, HEADS


PLACES = {
    "a share of a width": (
        types.SimpleNamespace(heads=2, width=16),
        lambda kept: (kept.heads, kept.width // kept.heads),
    ),
    "a width of heads": (
        types.SimpleNamespace(size=8, width=16),
        lambda kept: (kept.width // kept.size, kept.size),
    ),
    "keywords of a function": (
        functools.partial(sizes_given, heads=2, size=8),
        lambda kept: kept(),
    ),
    "a layer that is held": (Holder(), by_name),
    "a dictionary in another": ({"of": {"heads": 2, "size": 8}}, lambda kept: by_key(kept["of"])),
    "a dictionary": ({"heads": 2, "size": 8, "depth": 8}, by_key),
    "a pair": ((2, 8), tuple),
    "a list": ([2, 8], tuple),
    "a named tuple": (Shape(2, 8), by_name),
    "a configuration": (types.SimpleNamespace(unrelated=8, heads=2, size=8), by_name),
    "a frozen data class": (Settings(), by_name),
    "a dictionary in a configuration": (
        types.SimpleNamespace(sizes={"heads": 2, "size": 8}),
        lambda kept: by_key(kept.sizes),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_sizes_are_followed_wherever_they_are_kept(place):
    torch.manual_seed(0)
    kept, get = PLACES[place]
    model = Attention(copy.deepcopy(kept), get).eval()
    network = sec.trace(model, X)
    assert sorted(len(group) for group in network.groups) == [HEADS, SIZE]
    cut = network.cut({g.name: [1] if len(g) == HEADS else [1, 2] for g in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert tuple(get(small.kept)) == (1, 6)
    assert tuple(get(model.kept)) == (2, 8)
    positions = [0, 3, 4, 5, 6, 7]
    with torch.no_grad():  # by hand: the first head, at these positions
        q, k, v = (
            F.linear(X, m.weight[positions], m.bias[positions]) for m in (model.q, model.k, model.v)
        )
        mixed = (q @ k.mT * 0.4).softmax(-1) @ v
        expected = mixed @ model.out.weight[:, positions].T + model.out.bias
        assert torch.allclose(small(X), expected, atol=1e-5)
    again = sec.Cut.from_json(cut.to_json())
    rebuilt = sec.apply(Attention(copy.deepcopy(kept), get).eval(), again, X, proof=False)
    assert tuple(get(rebuilt.kept)) == (1, 6)


def test_numbers_beside_those_that_count_stay():
    kept, get = PLACES["a dictionary"]
    model = Attention(dict(kept), get).eval()
    small = sec.prune(model, X, sec.Budget(channels=0.5)).model
    assert small.kept["depth"] == 8


class Shared(nn.Module):
    """Two layers that read one configuration: they lose the same number of heads."""

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(heads=2, size=8)
        self.first = Attention(self.config, by_name)
        self.between, self.second = nn.Linear(3, 6), Attention(self.config, by_name)

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def test_a_configuration_that_two_layers_share_stays_shared():
    torch.manual_seed(0)
    model = Shared().eval()
    small = sec.prune(model, X, sec.Budget(channels=0.5)).model
    assert small.config is small.first.kept is small.second.kept
    assert small.config is not model.config
    width = small.config.heads * small.config.size
    assert small.first.q.out_features == small.second.q.out_features == width < 16


class ByEinops(nn.Module):
    def __init__(self, **lengths):
        super().__init__()
        layers = pytest.importorskip("einops.layers.torch")
        self.qkv, self.out = nn.Linear(6, 3 * HEADS * SIZE), nn.Linear(HEADS * SIZE, 3)
        self.split = layers.Rearrange("b n (t h d) -> t b h n d", t=3, **lengths)
        self.join = layers.Rearrange("b h n d -> b n (h d)")

    def forward(self, x):
        q, k, v = self.split(self.qkv(x))
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, scale=0.4)))


@pytest.mark.parametrize("lengths", [{"h": HEADS}, {"d": SIZE}, {"h": HEADS, "d": SIZE}])
def test_the_lengths_of_einops_layers_follow(lengths):
    torch.manual_seed(0)
    model = ByEinops(**lengths).eval()
    network = sec.trace(model, X)
    assert sorted(len(group) for group in network.groups) == [HEADS, SIZE]
    cut = network.cut({g.name: [1] if len(g) == HEADS else [1, 2] for g in network.groups})
    small = sec.apply(model, cut, X, network=network)
    left = {"h": 1, "d": 6}
    assert small.split.axes_lengths == {"t": 3, **{name: left[name] for name in lengths}}
    assert torch.equal(copy.deepcopy(small)(X), small(X))


class Coincidence(nn.Module):
    """With two heads, what one takes (two keys and a value) is as wide as each half of the rest."""

    def __init__(self, width, heads):
        super().__init__()
        self.half, self.heads, self.value = width, heads, width // heads
        self.key = self.value // 2
        self.a, self.b = nn.Conv2d(3, 2 * width, 1), nn.Conv2d(2 * width, 5, 1)
        self.qkv = nn.Conv2d(width, width + 2 * self.key * heads, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def attention(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(x).view(b, self.heads, self.key * 2 + self.value, h * w)
        q, k, v = qkv.split([self.key, self.key, self.value], 2)
        weights = (q.transpose(-2, -1) @ k * self.key**-0.5).softmax(-1)
        return self.proj((v @ weights.transpose(-2, -1)).view(b, c, h, w))

    def forward(self, x):
        a, b = self.a(x).split((self.half, self.half), 1)
        return self.b(torch.cat((a, b + self.attention(b)), 1))


def test_sizes_equal_by_coincidence_are_not_bound_together():
    found = {}
    for width, heads in ((24, 3), (16, 2)):
        torch.manual_seed(0)
        network = sec.trace(Coincidence(width, heads).eval(), torch.randn(1, 3, 4, 5))
        lengths = [len(group) for group in network.groups]
        found[heads] = ["heads" if n == heads else n * heads / width for n in lengths]
    assert found[2] == found[3] == [1.0, "heads", 0.5]


class PartlyTurned(nn.Module):
    """Half of each head's positions are turned, by a table with one number for each pair of them.

    With two heads the table is as long as there are heads.
    """

    def __init__(self, heads):
        super().__init__()
        self.heads, self.size, self.layers = heads, 8, 2
        self.i, self.qkv = nn.Linear(6, 8 * heads), nn.Linear(8 * heads, 24 * heads)
        self.o = nn.Linear(8 * heads, 3)
        self.register_buffer("speeds", torch.rand(2))

    def turn(self, x):
        half = self.size // 2
        angles = torch.outer(torch.arange(x.shape[-2]) + 1.0, self.speeds[: half // 2])
        angles = torch.cat([angles, angles], -1)
        turned = torch.cat([-x[..., half // 2 : half], x[..., : half // 2]], -1)
        first = x[..., :half] * angles.cos() + turned * angles.sin()
        return torch.cat([first, x[..., half:]], -1)

    def forward(self, x):
        qkv = self.qkv(self.i(x)).view(*x.shape[:2], 3, self.heads, self.size)
        q, k, v = qkv.transpose(1, 3).unbind(2)
        weights = self.turn(q) @ self.turn(k).mT * self.size**-0.5
        return self.o((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_a_share_of_a_number_is_not_another_that_is_as_large():
    for heads in (2, 3):
        torch.manual_seed(0)
        model = PartlyTurned(heads).eval()
        network = sec.trace(model, torch.rand(2, 5, 6))
        assert sorted(len(group) for group in network.groups) == sorted([heads, 8 * heads])
        cut = network.cut({group.name: [0] for group in network.groups})
        small = sec.apply(model, cut, torch.rand(2, 5, 6), network=network)
        assert (small.heads, small.size, small.layers) == (heads - 1, 8, 2)


class SharesAChild(nn.Module):
    """Attention that adds what a module computes which another block holds as well (CoaT)."""

    def __init__(self, shared):
        super().__init__()
        self.shared = shared
        self.heads, self.size = 4, 3
        self.qkv, self.out = nn.Linear(6, 36), nn.Linear(12, 6)

    def forward(self, x):
        shape = (*x.shape[:2], 3, self.heads, self.size)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v) + self.shared(v)
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.size))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        shared = nn.Tanh()
        self.first, self.second = SharesAChild(shared), SharesAChild(shared)

    def forward(self, x):
        return self.second(self.first(x))


def test_a_child_that_two_blocks_hold_is_found_under_its_one_path():
    torch.manual_seed(0)
    model = Twice().eval()
    network = sec.trace(model, X)
    made = sec.prune(model, X, amount=0.5, proof="independent")
    assert sorted(len(group) for group in network.groups) == [3, 3, 4, 4, 6]
    assert made.model.second.heads < 4
