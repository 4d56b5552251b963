"""Models that ran before being cut and cached something."""

import copy

import pytest
import torch
from torch import nn

import secateurs as sec

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Biased(nn.Module):
    """A bias for each channel and position, picked from a table once and kept, as LeViT does."""

    def __init__(self, in_a_dictionary):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.table = nn.Parameter(torch.randn(8, 4))
        self.register_buffer("index", torch.tensor([0, 2, 1, 3, 2]), persistent=False)
        self.kept, self.in_a_dictionary, self.steps = {}, in_a_dictionary, 0
        self.bias = None

    def forward(self, x):
        if self.training:
            bias = self.table[:, self.index]
        elif self.in_a_dictionary:
            if "bias" not in self.kept:
                self.kept["bias"] = self.table[:, self.index]
            bias = self.kept["bias"]
        else:
            if self.bias is None:
                self.bias = self.table[:, self.index]
            bias = self.bias
        return self.last((self.first(x) + bias.T).relu())


@pytest.mark.parametrize("in_a_dictionary", [True, False])
@pytest.mark.parametrize("runs_between", [True, False])
def test_what_is_kept_of_a_weight_is_made_again_of_what_stays_of_it(in_a_dictionary, runs_between):
    torch.manual_seed(0)
    model = Biased(in_a_dictionary).eval()
    with torch.no_grad():
        expected = model(X)
        network = sec.trace(model, X)
        (group,) = network.groups
        if runs_between:
            model(X)
        small = sec.apply(model, network.cut({group.name: [1, 6]}), X, network=network)
        assert small.table.shape == (6, 4)
        assert torch.equal(model(X), expected)
        dense = copy.deepcopy(model)
        dense.last.weight[:, [1, 6]] = 0
        for _ in range(2):
            assert torch.allclose(small(X), dense(X), atol=1e-6)


class Sized(nn.Module):
    """Positions made anew where there are more or fewer of them than last time, as ConViT does."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.where = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(4, 8)
        self.places = torch.zeros(1, 4)

    def forward(self, x):
        if self.places.shape[0] != x.shape[1]:
            self.places = torch.arange(4.0 * x.shape[1]).reshape(x.shape[1], 4)
        return self.last((self.first(x) + self.where(self.places)).relu())


def test_a_table_computed_for_an_input_length_is_not_a_weight():
    torch.manual_seed(0)
    model = Sized().eval()
    model(X)
    network = sec.trace(model, X)
    assert [len(group) for group in network.groups] == [8]
    small = sec.delete_channels(model, {"first": [2, 5]}, X)
    assert "places" not in sec.report_of(small).cut.tensors
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.last.weight[:, [2, 5]] = 0
    for x in (X, X[:, 1:]):
        assert torch.allclose(small(x), dense(x), atol=1e-6)


class Shifted(nn.Module):
    """Tensors that a pass does not make again, or not alike."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.shift = torch.randn(8)
        self.runs = None

    def forward(self, x):
        self.runs = torch.zeros(8) if self.runs is None else self.runs + 1
        return self.last((self.first(x) + self.shift + self.runs).relu())


def test_caches_that_cannot_be_rebuilt_are_kept():
    torch.manual_seed(0)
    model = Shifted().eval()
    for _ in range(3):
        model(X)
    shift, runs = model.shift, model.runs
    sec.trace(model, X)
    assert model.shift is shift
    assert model.runs is runs
    assert runs.tolist() == [2] * 8
    small = sec.delete_channels(model, {"first": [0, 3]}, X)
    assert small.shift.tolist() == shift[[1, 2, 4, 5, 6, 7]].tolist()
