"""The channels that a cut model kept, inferred from its weights or its report."""

from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.channels.cut import Cut
from secateurs.errors import CutError
from secateurs.reconstruction.matching import match_channels
from support.networks_by_hand import grid, two_layers

RANDOM = np.random.default_rng(0)


def dense(network, **values):
    tensors = {
        tensor.name: values.get(tensor.name, RANDOM.normal(size=tensor.shape))
        for tensor in network.tensors.values()
    }
    network.source = SimpleNamespace(array=tensors.__getitem__)
    return tensors


def slice_tensors(network, tensors, cut):
    found = {}
    for name, array in tensors.items():
        for axis, gone in cut.tensors[name].removed.items() if name in cut.tensors else ():
            array = np.delete(array, gone, axis)  # noqa: PLW2901
        found[name] = array
    return found


@pytest.mark.parametrize("gone", [[0], [1, 3], [0, 1, 2]])
@pytest.mark.parametrize("has_report", [True, False])
def test_channels_are_found_from_the_report_or_the_weights(gone, has_report):
    network = two_layers()
    tensors = dense(network)
    cut = network.cut({"first": gone})
    alive = match_channels(
        network, slice_tensors(network, tensors, cut), cut if has_report else Cut()
    )
    assert np.array_equal(alive, network.alive(network.removed_by(cut)))


def test_equal_biases_are_distinguished_by_other_tensors():
    network = two_layers()
    tensors = dense(network, **{"first.bias": np.zeros(4), "norm.weight": np.ones(4)})
    cut = network.cut({"first": [2]})
    alive = match_channels(network, slice_tensors(network, tensors, cut), Cut())
    assert np.array_equal(alive, network.alive(network.removed_by(cut)))


def test_rows_of_a_grid_are_found():
    network = grid(2, 3)
    tensors = dense(network)
    rows = min(network.groups, key=len)
    cut = network.cut({rows.name: [0]})
    alive = match_channels(network, slice_tensors(network, tensors, cut), Cut())
    assert np.array_equal(alive, network.alive(network.removed_by(cut)))


def test_a_report_of_another_model_is_not_believed():
    network = two_layers()
    tensors = dense(network)
    cut = network.cut({"first": [1]})
    other = two_layers(5).cut({"first": [0, 2]})
    alive = match_channels(network, slice_tensors(network, tensors, cut), other)
    assert np.array_equal(alive, network.alive(network.removed_by(cut)))


def test_a_model_that_is_not_a_slice_is_refused():
    network = two_layers()
    tensors = dense(network)
    small = slice_tensors(network, tensors, network.cut({"first": [1]}))
    trained = {name: array * 1.01 for name, array in small.items()}
    with pytest.raises(CutError, match="expected slices of the dense model's weights along axis 0"):
        match_channels(network, trained, Cut())
    with pytest.raises(CutError, match=r"'first.bias' is missing in it"):
        match_channels(network, {n: a for n, a in small.items() if n != "first.bias"}, Cut())
    wider = {**small, "first.bias": np.zeros(9)}
    with pytest.raises(
        CutError, match=r"first\.bias: expected no more than .*\(4,\); received \(9,\)"
    ):
        match_channels(network, wider, Cut())
    uneven = {**small, "norm.weight": tensors["norm.weight"]}
    with pytest.raises(CutError, match="expected a cut that takes whole channels"):
        match_channels(network, uneven, Cut())
