"""The data of a group that a criterion gets: rows by channel, for every tensor along it."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.calibration.statistics import CalibrationStatistics
from secateurs.criteria.group_data import GroupData
from secateurs.errors import SecateursError
from support.small_networks import Grouped, Residual, images

X = images()


def data_of(model, name, **gathered):
    network = sec.trace(model, X[:1])
    group = next(group for group in network.groups if group.name == name)
    return GroupData(network, group, np.random.default_rng(0), CalibrationStatistics(**gathered))


def rows(tensor):
    return tensor.detach().flatten(1).numpy()


def test_filters_scales_and_readers_are_rows_by_channel():
    model = Residual()
    found = data_of(model, "stem")
    assert len(found) == 6
    for got, expected in (
        (found.filters, [model.stem.weight, model.conv2.weight]),
        (found.scales, [model.norm0.weight[:, None], model.norm2.weight[:, None]]),
        (found.readers, [w.transpose(0, 1) for w in (model.conv1.weight, model.last.weight)]),
    ):
        assert [array.shape for array in got] == [rows(one).shape for one in expected]
        for array, tensor in zip(got, expected, strict=True):
            np.testing.assert_array_equal(array, rows(tensor))


def test_curvature_accompanies_every_removed_weight():
    model = Residual()
    squares = {"conv1.weight": np.arange(8 * 6 * 9.0).reshape(8, 6, 3, 3)}
    squares["norm1.bias"] = np.arange(8.0)
    found = data_of(model, "conv1", curvature=squares).weights_and_curvature()
    pairs = {tuple(curved.shape): (weights, curved) for weights, curved in found}
    weights, curved = pairs[8, 54]
    np.testing.assert_array_equal(weights, rows(model.conv1.weight))
    np.testing.assert_array_equal(curved, squares["conv1.weight"].reshape(8, 54))
    np.testing.assert_array_equal(pairs[8, 1][1][:, 0], np.arange(8))


def test_a_channel_of_several_filters_has_them_all():
    """Of a grouped convolution, one filter of each of its three groups goes at a time."""
    network = sec.trace(Grouped(), X[:1])
    for group in network.groups:
        data = GroupData(network, group, np.random.default_rng(0))
        for array in data.filters:
            assert len(array) == len(group)
    total = sum(a.size for g in network.groups for a in GroupData(network, g, None).filters)
    made = [
        Grouped().get_parameter(m.tensor).numel()
        for g in network.groups
        for m in g.members
        if m.role is sec.channels.groups.Role.FILTER
    ]
    assert total == sum(made)


def test_missing_statistics_are_reported_with_the_remedy():
    found = data_of(Residual(), "stem")
    for name in ("readings", "grams", "gates", "ablation"):
        with pytest.raises(SecateursError, match=r"to be collected.*@criterion\(Need\."):
            getattr(found, name)
    with pytest.raises(SecateursError, match="expected curvature to be collected"):
        found.weights_and_curvature()


def test_a_group_without_filters_is_described_by_what_runs_along_it():
    """A bare parameter that is added: no weight makes its channels."""

    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x.sum() * torch.relu(self.rows))

    network = sec.trace(Bare(), X[:1])
    (group,) = (g for g in network.groups if len(g) == 4)
    (described,) = GroupData(network, group, None).filters
    np.testing.assert_array_equal(described, np.arange(12.0).reshape(3, 4).T)
