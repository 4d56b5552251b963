"""Slices that are twin or zeroed for a time or for good, against weights changed by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateurs.channels.cut import Cut
from secateurs.channels.independent import Slice
from secateurs.pytorch.proof.perturbed_copy import PerturbedCopy

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Doubled(nn.Linear):
    """Its weight is computed from its parameters, and is not zero where these are."""

    def forward(self, x):
        return F.linear(x, 2 * self.weight + 0.1, self.bias)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.fixture
def twin(model):
    return PerturbedCopy(model, Cut(), X)


def zero_by_hand(model, name, axis, indices):
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.get_parameter(name).index_fill_(axis, torch.tensor(indices), 0)
        return made(X)


def test_slices_have_other_values_for_a_time(model, twin):
    filters, spared = Slice("0.weight", 0, (1, 4)), Slice("0.weight", 0, (4,))
    with torch.no_grad():
        expected = model(X)
    assert torch.equal(twin.outputs(), expected)
    with twin.perturb([filters]):
        assert not torch.allclose(twin.outputs(), expected)
    with twin.perturb([filters], spare=[filters]):
        assert torch.equal(twin.outputs(), expected)
    seen = twin.watch().seen
    with twin.perturb([filters], spare=[spared]):
        changed = twin.watch(seen).changed
    (hidden,) = (where for number, where in changed.items() if seen[number].is_live)
    assert hidden.any(dim=0).tolist() == [False, True, False, False, False, False]
    with twin.zero([filters]):
        assert torch.equal(twin.outputs(), zero_by_hand(model, "0.weight", 0, [1, 4]))
    assert torch.equal(twin.outputs(), expected)


def test_a_slice_that_is_zeroed_for_good_stays_zero(model, twin):
    before = copy.deepcopy(model.state_dict())
    twin.keep_zero(Slice("2.weight", 1, (0, 2)))
    assert torch.equal(twin.outputs(), zero_by_hand(model, "2.weight", 1, [0, 2]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pass_shows_where_its_results_change(twin):
    seen = twin.watch().seen
    assert all(one.is_live for one in seen.values() if one.values.shape == (5, 6))
    with twin.perturb([Slice("2.weight", 0, (1,))]):
        changed = twin.watch(seen).changed
    (number,) = (n for n in changed if seen[n].is_live)
    assert changed[number].any(dim=0).tolist() == [False, True, False]
    with twin.perturb([Slice("0.bias", 0, (3,))]):
        first, to_end = twin.watch(seen), twin.watch(seen, to_end=True)
    assert len(first.changed) < len(to_end.changed)


def test_results_of_operations_are_zero_for_a_time_and_for_good(model, twin):
    seen = twin.watch().seen
    last = max(number for number, one in seen.items() if one.values.shape == (5, 6))
    everything = {last: torch.ones(5, 6, dtype=torch.bool)}
    before = twin.outputs()
    with twin.zero_results(everything):
        assert torch.equal(twin.outputs(), model[2].bias.detach().expand(5, 3))
    assert torch.equal(twin.outputs(), before)
    twin.keep_results_zero(everything)
    assert torch.equal(twin.outputs(), model[2].bias.detach().expand(5, 3))


def test_a_computed_weight_is_zeroed_where_it_is_computed():
    torch.manual_seed(0)
    model = nn.Sequential(Doubled(4, 3)).eval()
    twin = PerturbedCopy(model, Cut(), X)
    row = Slice("0.weight", 0, (2,))
    weight = (2 * model[0].weight + 0.1).detach()
    computing = [n for n, one in twin.watch().seen.items() if torch.equal(one.values, weight)]
    twin.keep_computed_zero(computing[-1], row)
    outputs = twin.outputs()
    assert torch.equal(outputs[:, 2], model[0].bias[2].detach().expand(5))
    assert torch.equal(outputs[:, :2], model(X).detach()[:, :2])


def test_slices_and_what_is_beside_them(twin):
    part, bias = Slice("0.weight", 0, (0, 1, 3, 4)), Slice("0.bias", 0, (0, 3))
    assert twin.rest_of(part).indices == (2, 5)
    assert twin.mask_of(part).sum(dim=1).tolist() == [4, 4, 0, 4, 4, 0]
    assert twin.is_matrix(part)
    assert not twin.is_matrix(bias)
    halves = [[one.indices for one in piece] for piece in twin.split([part, bias], 2)]
    assert halves == [[(0, 1), (0,)], [(3, 4), (3,)]]
    thirds = [[one.indices for one in piece] for piece in twin.split([part, bias], 3)]
    assert thirds == [[(0, 1), (0,)], [(3,), (3,)]]  # nothing of the bias in 4 and 5
    assert list(twin.split([], 2)) == []
    assert twin.has_values(part)


def test_tensors_of_integers_cannot_be_perturbed():
    model = nn.Sequential(nn.BatchNorm1d(4))
    twin = PerturbedCopy(model, Cut(), X)
    assert not twin.has_values(Slice("0.num_batches_tracked", 0, (0,)))
