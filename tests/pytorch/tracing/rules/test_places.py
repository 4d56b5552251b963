"""Operations that depend on positions (slice, roll, scatter): a cut must not move them.

A channel is free exactly where a cut of it leaves the others what they were, by brute force.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


class Taken(nn.Module):
    def __init__(self, take):
        super().__init__()
        self.take = take
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(take(torch.zeros(2, 5, 8)).shape[-1], 3)

    def forward(self, x):
        return self.b(self.take(self.a(x)))


def is_free(take, channel):
    """Whether what is taken of the others is all that is taken but this channel, in order."""
    numbers = torch.arange(8.0).expand(2, 5, 8)
    whole = take(numbers)[0, 0]
    less = take(torch.cat([numbers[..., :channel], numbers[..., channel + 1 :]], -1))[0, 0]
    return torch.equal(less, whole[whole != channel])


TAKES = {
    "from the front": lambda y: y[..., 2:5],
    "to the end": lambda y: y[..., 3:],
    "from the end": lambda y: y[..., -3:],
    "but the last": lambda y: y[..., :-1],
    "narrowed": lambda y: y.narrow(-1, 1, 4),
    "one by its place": lambda y: y[..., 2, None],
    "the last": lambda y: y[..., -1, None],
    "rolled": lambda y: y.roll(1, -1),
    "rolled back": lambda y: y.roll(-2, -1),
    "rolled by more than there are": lambda y: y.roll(9, -1),
    "rolled as a whole": lambda y: y.roll(1),
}


@pytest.mark.parametrize("take", TAKES)
def test_removable_channels_leave_positions_unchanged(take):
    model = Taken(TAKES[take]).eval()
    network = sec.trace(model, X)
    offered = {
        int(rows[0])
        for group in network.groups
        if len(group) > 1  # of one channel, none may go
        for member in group.members
        if (member.tensor, member.axis) == ("a.weight", 0)
        for rows in network.positions(group, member)
    }
    assert offered or take in ("rolled as a whole", "rolled by more than there are")
    assert offered <= {channel for channel in range(8) if is_free(TAKES[take], channel)}
    read = TAKES[take](torch.arange(8.0).expand(2, 5, 8))[0, 0].tolist()
    for group in network.groups:
        if len(group) == 1:
            continue
        small = sec.apply(model, network.cut({group.name: [0]}), X, network=network)
        (gone,) = set(range(8)) - {
            int((model.a.weight == row).all(1).nonzero()) for row in small.a.weight
        }
        dense = copy.deepcopy(model)
        with torch.no_grad():
            dense.b.weight[:, [at for at, channel in enumerate(read) if channel == gone]] = 0
            assert torch.allclose(small(X), dense(X), atol=1e-6)


def test_a_half_that_follows_its_length_is_free():
    """As many are before the second half as are in the first: nothing is counted from the front."""
    model = Taken(lambda y: y[..., : y.shape[-1] // 2] * y[..., y.shape[-1] // 2 :]).eval()
    network = sec.trace(model, X)
    (group,) = network.groups
    assert len(group) == 4
    small = sec.apply(model, network.cut({group.name: [1]}), X, network=network)
    assert sec.report_of(small).proof.holds


class Picture(nn.Module):
    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def put_back(model, x):
    pooled, places = F.max_pool2d(model.a(x), 2, return_indices=True)
    return model.b(F.max_unpool2d(model.c(pooled), places, 2))


def sample_grid(model, x):
    grid = model.grid(model.c(x)).permute(0, 2, 3, 1).tanh()
    return model.b(F.grid_sample(model.a(x), grid, align_corners=False))


@pytest.mark.parametrize(
    ("run", "layers", "found"),
    [
        (put_back, {"c": nn.Conv2d(6, 6, 1)}, {"a": 6}),
        (sample_grid, {"c": nn.Conv2d(3, 7, 1), "grid": nn.Conv2d(7, 2, 1)}, {"a": 6, "c": 7}),
    ],
)
def test_places_come_with_as_many_channels_or_as_coordinates(run, layers, found):
    model = Picture(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1), **layers).eval()
    x = torch.randn(2, 3, 8, 8)
    network = sec.trace(model, x)
    assert {group.name: len(group) for group in network.groups} == found
    cut = network.cut({name: [0, 2] for name in found})
    assert sec.report_of(sec.apply(model, cut, x, network=network)).proof.holds
