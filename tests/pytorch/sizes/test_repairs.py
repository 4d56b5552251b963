"""Repairs of a size that did not follow: bound, tied to another, or frozen."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.sized_blocks import HEADS, SIZE, Kept

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


class Tied(nn.Module):
    """Heads times places are laid out as wide as something else is."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.c, self.d = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        wide = self.a(x)
        heads = self.b(x).view(2, 5, 2, -1).transpose(1, 2).relu()
        return self.c(heads.transpose(1, 2).reshape(2, 5, wide.shape[-1])) + self.d(wide)


def test_two_numbers_that_must_agree_go_together():
    model = Tied().eval()
    network = sec.trace(model, X)
    assert network.groups
    for group in network.groups:
        small = sec.apply(model, network.cut({group.name: [0]}), X, network=network)
        assert small.a.out_features == small.b.out_features < 8


class Centred(nn.Module):
    """A mean written as a sum divided by how many there are: nothing else reads a size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(x - x.sum(-1, keepdim=True) / x.shape[-1]))


def test_a_mean_by_hand_is_frozen_with_its_line():
    network = sec.trace(Centred(), X)
    assert not network.groups
    reasons = [reason for one in network.frozen for reason in one.reasons]
    assert any(
        "a factor computed from the number of these channels" in r and "test_repairs.py" in r
        for r in reasons
    )


@pytest.mark.parametrize(
    ("numbers", "after"),
    [
        (
            {"depth": 2, "patch": 8, "heads": 2, "size": 8},
            {"depth": 2, "patch": 8, "heads": 1, "size": 6},
        ),
        ({"sizes": [2, 2, 8]}, {"sizes": [2, 1, 6]}),
    ],
)
def test_of_several_numbers_alike_the_one_that_counts_follows(numbers, after):
    model = Kept(**numbers).eval()
    network = sec.trace(model, X)
    assert sorted(len(group) for group in network.groups) == [HEADS, SIZE]
    cut = network.cut({g.name: [1] if len(g) == HEADS else [1, 2] for g in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert {name: vars(small)[name] for name in after} == after


class Literal(nn.Module):
    """The number of heads is written into the code; their size is not."""

    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        q = self.q(x).view(2, 5, 2, -1)
        return self.out(q.tanh().flatten(2))


def test_of_heads_and_positions_only_what_is_at_fault_stays():
    network = sec.trace(Literal().eval(), X)
    assert [len(group) for group in network.groups] == [8]


class LinearAttention(nn.Module):
    """A softmax over positions of queries and keys; one number counts those of values too."""

    def __init__(self, heads):
        super().__init__()
        self.heads, self.size = heads, SIZE
        self.q, self.k, self.v = (nn.Linear(6, heads * SIZE) for _ in range(3))
        self.out = nn.Linear(heads * SIZE, 3)

    def forward(self, x):
        split = (*x.shape[:2], self.heads, self.size)
        q, k, v = (layer(x).view(split).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = q.softmax(-1) @ (k.softmax(-2).mT @ v)
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("heads", [2, 3])
def test_heads_go_where_positions_stay_for_a_number_that_counts_others_too(heads):
    torch.manual_seed(0)
    model = LinearAttention(heads).eval()
    network = sec.trace(model, X)
    assert [len(group) for group in network.groups] == [heads]
    small = sec.apply(model, network.cut({network.groups[0].name: [0]}), X, network=network)
    with torch.no_grad():
        model.out.weight[:, :SIZE] = 0
        assert torch.allclose(small(X), model(X), atol=1e-6)


class OfTheOthersShape(nn.Module):
    """What comes out is laid out as something else is."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        wide = self.a(x)
        return self.b((self.mix @ wide.flatten(2)).view_as(wide))


def test_what_takes_another_shape_goes_with_the_other():
    model, x = OfTheOthersShape().eval(), torch.rand(2, 3, 4, 4)
    network = sec.trace(model, x)
    assert [len(group) for group in network.groups] == [8]
    small = sec.apply(model, network.cut({network.groups[0].name: [0, 3]}), x, network=network)
    assert small.mix.shape == (6, 6)


class SplitOfWhatStays(nn.Module):
    """A number that counts channels also says how channels that have to stay are split."""

    def __init__(self):
        super().__init__()
        self.width = 8
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(6, 20)

    def forward(self, x):
        wide = self.a(x).view(-1, self.width).relu()
        first, second = self.c(x).flatten(0, 1).split([self.width, 12], -1)
        return self.b(wide), first, second


def test_a_split_that_no_more_adds_up_is_seen_where_its_parts_stay():
    network = sec.trace(SplitOfWhatStays().eval(), X)
    assert not network.groups
    reasons = {reason for frozen in network.frozen for reason in frozen.reasons}
    assert any("an attribute also counts other, frozen channels" in reason for reason in reasons)


class Gates(nn.Module):
    """WaveNet's: two gates, a stream and what is put out, all taken apart by one kept width."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.start, self.given = nn.Linear(6, width), nn.Linear(6, 4 * width)
        self.inside = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.halves = nn.ModuleList([nn.Linear(width, 2 * width), nn.Linear(width, width)])
        self.end = nn.Linear(width, 3)

    def forward(self, x):
        n, out, given = self.width, 0, self.given(x)
        stream = self.start(x)
        for i, (inside, half) in enumerate(zip(self.inside, self.halves, strict=True)):
            both = inside(stream) + given[..., 2 * i * n : 2 * (i + 1) * n]
            both = half(both[..., :n].tanh() * both[..., n:].sigmoid())
            if i == 0:
                stream = stream + both[..., :n]
            out = out + (both[..., n:] if i == 0 else both)
        return self.end(out)


class Halves(nn.Module):
    """A canvas of twice one layer's width, that another layer writes into as well."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(n, width) for n in (6, width, 2 * width))
        self.d = nn.Linear(width, 3)

    def forward(self, x):
        a = self.a(x).relu()
        n = a.shape[-1]
        canvas = torch.empty(*a.shape[:-1], 2 * n)
        canvas[..., :n] = a
        canvas[..., n:].copy_(self.b(a))
        return self.d(self.c(canvas))


class Quotient(nn.Module):
    """As many heads of queries as of keys; what each of these has is one divided by the other."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.of_keys, self.size = heads, heads, width // heads
        self.q, self.k, self.v = (nn.Linear(6, width) for _ in range(3))
        self.o = nn.Linear(width, 3)

    def forward(self, x):
        rest, shared = x.shape[:2], (self.of_keys, self.size)
        q = self.q(x).view(*rest, self.of_keys, self.heads // self.of_keys, self.size)
        k, v = self.k(x).view(*rest, *shared), self.v(x).view(*rest, *shared)
        mixed = torch.einsum("btkgd,bskd->bkgts", q, k) / q.shape[-1] ** 0.5
        return self.o(torch.einsum("bkgts,bskd->btkgd", mixed.softmax(-1), v).flatten(2))


@pytest.mark.parametrize("make", [Gates, Halves, Quotient])
def test_numbers_that_count_several_at_once_follow(make):
    torch.manual_seed(0)
    model = make(16).eval()
    small = sec.prune(model, X, sec.Budget(channels=0.5), proof="independent").model
    by_hand = make(8).state_dict()
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    if make is Quotient:
        assert (small.heads, small.of_keys, small.size) in {(2, 2, 4), (4, 4, 2)}
    assert shapes == {name: tensor.shape for name, tensor in by_hand.items()}


class Branching(nn.Module):
    """Keys are repeated where there are more heads of queries, which is asked of numbers kept."""

    def __init__(self):
        super().__init__()
        self.heads, self.of_keys, self.size = 2, 1, 12
        self.q, self.k, self.v = (nn.Linear(6, n) for n in (24, 12, 12))
        self.o = nn.Linear(24, 3)

    def forward(self, x):
        rest = x.shape[:2]
        q = self.q(x).view(*rest, self.heads, self.size).transpose(1, 2)
        k, v = (
            layer(x).view(*rest, self.of_keys, self.size).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        if self.heads > self.of_keys:
            k, v = (one.expand(-1, self.heads, -1, -1) for one in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).reshape(*rest, self.heads * self.size))


def test_positions_go_where_heads_decide_which_way_the_code_takes():
    torch.manual_seed(0)
    small = sec.prune(Branching().eval(), X, sec.Budget(channels=0.5)).model
    assert (small.heads, small.of_keys, small.size) == (2, 1, 6)


class PartsOfHeads(nn.Module):
    """Each head has two halves, by one number of both: neither half goes alone."""

    def __init__(self):
        super().__init__()
        self.size = 8
        self.q, self.k, self.o = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        q, k = (layer(x).view(*x.shape[:2], -1, self.size).mT for layer in (self.q, self.k))
        half = self.size // 2
        return self.o((q[..., :half, :] * k[..., half:, :]).repeat(1, 1, 2, 1).mT.flatten(2))


def test_every_cut_of_what_is_offered_runs_not_only_of_all_at_once():
    torch.manual_seed(0)
    model = PartsOfHeads().eval()
    network = sec.trace(model, X)
    for group in network.groups:
        sec.apply(model, network.cut({group.name: [0]}), X, network=network)


class CheckedFirst(nn.Module):
    """Attention that checks its width by a multiple of its heads before any shape shows them."""

    def __init__(self, heads=4):
        super().__init__()
        self.heads, self.width = heads, 32
        self.stem, self.qkv, self.out = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 3)

    def forward(self, x):
        qkv = self.qkv(self.stem(x))
        n, length, width = qkv.shape
        assert width % (3 * self.heads) == 0
        each = width // (3 * self.heads)
        parts = (part.reshape(n, length, self.heads, each) for part in qkv.chunk(3, -1))
        q, k, v = (part.transpose(1, 2) for part in parts)
        found = (q @ k.mT / 2).softmax(-1) @ v
        return self.out(found.transpose(1, 2).flatten(2))


def test_heads_follow_where_a_check_of_their_multiple_fails_first():
    torch.manual_seed(0)
    model = CheckedFirst().eval()
    network = sec.trace(model, X)
    assert sorted(len(group) for group in network.groups) == [4, 8, 32]
    cut = network.cut({group.name: [1] for group in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert (small.heads, small.qkv.out_features) == (3, 3 * 3 * 7)
    rows, dense = list(cut.tensors["qkv.weight"].removed[0]), copy.deepcopy(model)
    with torch.no_grad():
        dense.qkv.weight[:, 1] = 0
        read = [row for row in rows if row < 64]  # queries and keys
        dense.qkv.weight[read], dense.qkv.bias[read] = 0, 0
        dense.out.weight[:, list(cut.tensors["out.weight"].removed[1])] = 0
    assert torch.allclose(small(X), dense(X), atol=1e-6)


class Steps(nn.Module):
    """A sinusoidal embedding of steps; one of an odd length is padded."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def forward(self, steps):
        half = self.length // 2
        rates = torch.exp(-torch.arange(half) / (half - 1))
        angles = steps[:, None].float() * rates[None]
        found = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return F.pad(found, (0, 1)) if self.length % 2 else found


class Down(nn.Module):
    """A layer that checks its input, with as many channels out of it as into it."""

    def __init__(self, channels, literal):
        super().__init__()
        self.channels = self.out_channels = channels
        self.literal, self.layer = f"{channels}" if literal else "", nn.Linear(channels, channels)

    def forward(self, x):
        assert x.shape[-1] == int(self.literal or self.channels)
        return self.layer(x)


class OfSteps(nn.Module):
    """The embedding has by chance the length that is checked."""

    def __init__(self, width, literal=False):
        super().__init__()
        self.steps, self.of_steps = Steps(width), nn.Parameter(torch.randn(10, width))
        self.stem, self.down = nn.Linear(6, width), Down(width, literal)
        self.to_stem, self.head = nn.Linear(10, width), nn.Linear(width, 3)

    def forward(self, x, steps):
        at = self.to_stem(F.linear(self.steps(steps), self.of_steps).relu())
        return self.head(self.down((self.stem(x) + at[:, None]).relu()).relu()).view(2, -1)


STEPS = torch.tensor([3, 7])
WIDTHS = range(8, 17)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_check_is_of_what_the_layer_was_given_and_no_number_elsewhere_follows(width):
    torch.manual_seed(0)
    model = OfSteps(width).eval()
    network = sec.trace(model, (X, STEPS))
    assert sorted(len(group) for group in network.groups) == sorted([width, width, 10])
    cut = network.cut({"stem": [1, 2, 6], "down.layer": [0], "of_steps": [4, 9]})
    small = sec.apply(model, cut, (X, STEPS), network=network, proof="independent")
    assert (small.down.channels, small.steps.length) == (width - 3, width)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.down.layer.weight[:, [1, 2, 6]] = 0
        dense.head.weight[:, [0]] = 0
        dense.to_stem.weight[:, [4, 9]] = 0
    assert torch.allclose(small(X, STEPS), dense(X, STEPS), atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_where_no_number_explains_a_check_only_what_it_checks_stays(width):
    torch.manual_seed(0)
    model = OfSteps(width, literal=True).eval()
    network = sec.trace(model, (X, STEPS))
    assert sorted(group.name for group in network.groups) == ["down.layer", "of_steps"]
    (reason,) = (why for why in network.frozen_for if "does not follow" in why)
    assert "(in forward)" in reason
    assert "test_repairs.py" in reason
    cut = network.cut({"down.layer": [0, 3], "of_steps": [4]})
    small = sec.apply(model, cut, (X, STEPS), network=network, proof="independent")
    assert small.steps.length == width
