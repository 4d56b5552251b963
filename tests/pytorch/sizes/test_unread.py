"""Sizes that the traced pass does not read follow the weights beside them, or are listed."""

from types import SimpleNamespace

import torch
from torch import nn

import secateurs as sec
from support.sized_blocks import Block, Holds, Reads

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_each_follows_the_side_that_it_is_called_after():
    torch.manual_seed(0)
    model = nn.Sequential(Block(3, 16), Block(16, 16), nn.Conv2d(16, 4, 1)).eval()
    small = sec.delete_channels(model, {"0.conv": [0, 1, 8, 9], "1.conv": [3, 11]}, X)
    first, second = small[0], small[1]
    assert (first.in_channels, first.out_channels, first.half) == (3, 12, 6)
    assert (second.in_channels, second.out_channels, second.half) == (12, 14, 7)
    assert second.kernel_size == 3
    x = torch.rand(1, 12, 8, 8)
    assert torch.equal(second.forward_for_export(x), second(x))
    again = sec.Cut.from_json(sec.report_of(small).cut.to_json())
    assert sec.apply(model, again, X, proof=False)[1].half == 7
    assert (model[1].in_channels, model[1].half) == (16, 8)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 8
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


def test_one_that_may_count_either_stays_and_is_listed():
    model, x = Two().eval(), torch.rand(2, 4)
    network = sec.trace(model, x)
    assert any("width = 8" in note for note in network.notes)
    assert "width = 8" in str(network)
    assert sec.apply(model, network.cut({"a": [0]}), x, network=network).width == 8


def test_a_number_that_the_pass_reads_otherwise_stays():
    model, x = Reads().eval(), torch.rand(2, 4)
    small = sec.delete_channels(model, {"a": [1, 2]}, x)
    assert small.gain == 6
    assert sec.report_of(small).proof.holds


class Writes(nn.Module):
    """Keeps a number of channels that it sets anew as it runs."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.a(x)
        self.width = y.shape[-1]
        return self.b(y.relu())


def test_a_number_that_the_pass_writes_does_not_stop_the_trace():
    model, x = Writes().eval(), torch.rand(2, 4)
    network = sec.trace(model, x)
    assert not any("real tensors" in note for note in network.notes)
    assert model.width == 6
    assert sec.report_of(sec.delete_channels(model, {"a": [1, 2]}, x)).proof.holds


def test_one_object_of_two_layers_counts_for_both_or_is_listed():
    settings = SimpleNamespace(hidden=16)
    parts = Holds(settings), nn.Conv2d(4, 3, 1), Holds(settings)
    network = sec.trace(nn.Sequential(*parts).eval(), X)
    assert any("0.kept.hidden = 16" in note for note in network.notes)
    small = sec.apply(network.source.model, network.cut({"0.a": [1]}), X, network=network)
    assert small[2].kept.hidden == 16


def test_a_pair_of_one_number_is_listed():
    network = sec.trace(Holds((16, 16)).eval(), X)
    assert any("kept[0] = 16, kept[1] = 16" in note for note in network.notes)
