"""The masked twin of a small network, computed by hand: its consumers read zeros."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.channels.sampling import MOST_SAMPLES
from secateurs.errors import CutError
from secateurs.keras.proof.comparison import outputs_without
from secateurs.keras.proof.masked_twin import Kept, Sampled, stand_ins_of
from secateurs.keras.trace_model import source_of
from secateurs.keras.tracing.interpreter import OpInterpreter

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def mark_kept(*stays):
    return Kept(np.array(stays, bool))


def test_kept_units_are_counted_indexed_and_broadcast():
    some = mark_kept(1, 0, 1, 1)
    units = np.arange(4)
    assert some.places(units).tolist() == [0, 2, 3]
    assert some.shape((2, 4), {1: units}) == (2, 3)
    assert some.along_axis(units, 3, 1).shape == (1, 4, 1)
    assert not some.all({0: units})
    assert some.all({0: units[2:]})


def test_a_tensor_is_compressed_and_expanded_again():
    some, units = mark_kept(1, 0, 1), np.arange(3)
    x = keras.ops.convert_to_tensor(X)
    small = some.compress(x, {1: units})
    assert np.array_equal(numpy(small), X[:, [0, 2]])
    assert np.array_equal(numpy(some.expand(small, {1: units}))[:, [0, 2]], X[:, [0, 2]])


def test_consumers_get_zeros_and_producers_are_left_alone():
    layers = [keras.Input((3,)), L.Dense(5, name="a"), L.Activation("sigmoid"), L.Dense(2)]
    model = keras.Sequential(layers)
    network = sec.trace(model)
    cut = network.cut({"a": [0, 3]})
    (found,) = outputs_without(network, cut, [X])
    (w, b), (v, c) = (layer.get_weights() for layer in (model.layers[0], model.layers[-1]))
    hidden = 1 / (1 + np.exp(-(X @ w + b)))
    hidden[:, [0, 3]] = 0  # a sigmoid of zero would be one half
    assert np.allclose(found, hidden @ v + c, atol=1e-5)


def test_layers_that_mix_channels_are_rebuilt_for_the_kept_ones():
    layers = [keras.Input((3,)), L.Dense(5, name="a"), L.LayerNormalization(name="n"), L.Dense(2)]
    model = keras.Sequential(layers)
    model.get_layer("n").gamma.assign(np.arange(1.0, 6.0))
    network = sec.trace(model)
    cut = network.cut({"a": [1]})
    some = Kept(network.solution.mark_kept(network.alive(network.removed_by(cut))))
    (layer,) = stand_ins_of(source_of(network), cut, some).values()
    assert numpy(layer.gamma).tolist() == [1.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("side", [3, 2100])
def test_samples_are_values_of_the_results_in_the_order_of_the_calls(side):
    """Small results wait to be sampled, on TensorFlow; those of the wide image are too many."""
    first, second = L.Conv2D(1, 1, name="a"), L.Activation("sigmoid")
    model = keras.Sequential([keras.Input((side, side, 1)), first, second, L.Conv2D(1, 3)])
    x = np.random.default_rng(0).normal(size=(1, side, side, 1)).astype("float32")
    network = sec.trace(model, x)
    every = Kept(network.solution.mark_kept(network.alive(())))
    step = Sampled(source_of(network).operations, every)
    step.begin()
    OpInterpreter(step).run(model, [keras.ops.convert_to_tensor(x)])
    results = [x]
    for layer in model.layers:
        results.append(numpy(layer(results[-1])))
    for sample, result in zip(step.samples(), results[1:], strict=True):
        wanted = max(64, min(max(result.shape), MOST_SAMPLES))
        assert len(numpy(sample)) == min(wanted, result.size)
        known = np.sort(result, axis=None)
        after = np.searchsorted(known, numpy(sample)).clip(1, result.size - 1)
        gaps = np.minimum(*(np.abs(known[at] - numpy(sample)) for at in (after - 1, after)))
        assert gaps.max() < 1e-5


def wide_reader(**options):
    """A convolution whose kernel has far more numbers than what it reads."""
    layers = [
        keras.Input((3, 3, 4)),
        L.Conv2D(6, 1, name="a"),
        L.Activation("sigmoid", name="s"),
        L.Conv2D(64, 3, **options, name="b"),
    ]
    return keras.Sequential(layers), np.random.default_rng(1).normal(size=(2, 3, 3, 4))


def test_a_large_kernel_reads_zeros_as_well():
    model, x = wide_reader()
    x = x.astype("float32")
    network = sec.trace(model, x)
    (found,) = outputs_without(network, network.cut({"a": [1, 4]}), [x])
    hidden = numpy(model.layers[1](model.layers[0](x)))
    hidden[..., [1, 4]] = 0
    kernel, bias = model.layers[2].get_weights()
    by_hand = np.einsum("nhwi,hwio->no", hidden, kernel) + bias
    assert np.allclose(found[:, 0, 0], by_hand, rtol=1e-4, atol=1e-5)


READERS = {
    "one dimension": ((6,), L.Conv1D),
    "two dimensions": ((6, 5), L.Conv2D),
    "three dimensions": ((4, 3, 3), L.Conv3D),
    "causal": ((6,), lambda *sizes: L.Conv1D(*sizes, padding="causal", dilation_rate=2)),
    "dense": ((3,), lambda filters, _: L.Dense(filters)),
    "transposed": ((4, 4), L.Conv2DTranspose),
    "separable": ((4, 4), L.SeparableConv2D),
    "own strides": ((7, 6), lambda *sizes: L.Conv2D(*sizes, strides=3, padding="same")),
    "channels first": ((4, 5), lambda *sizes: L.Conv2D(*sizes, data_format="channels_first")),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_of_every_kind_get_zeros(name):
    """Twice: on TensorFlow the first convolution of a kind is run by Keras."""
    sides, make = READERS[name]
    axis = 1 if name == "channels first" else -1
    shape = (4, *sides) if axis == 1 else (*sides, 4)
    if axis == 1 and keras.backend.backend() == "tensorflow":
        pytest.skip("not on CPUs")
    for removed in ([1, 4], [0]):
        x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
        first = L.Activation("sigmoid", name="s")
        makers = [L.Dense(6, name="a")] if axis == -1 else []
        if axis == 1:
            makers = [L.Conv2D(6, 1, data_format="channels_first", name="a")]
        reader = make(64, 2)
        model = keras.Sequential([keras.Input(shape), *makers, first, reader, L.Flatten()])
        network = sec.trace(model, x)
        (found,) = outputs_without(network, network.cut({"a": removed}), [x])
        hidden = np.moveaxis(numpy(first(makers[0](x))), axis, -1)
        hidden[..., removed] = 0
        expected = numpy(reader(np.moveaxis(hidden, -1, axis)))
        assert np.allclose(found.reshape(2, -1), expected.reshape(2, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's convolutions")
def test_keras_runs_no_convolution_of_fewer_channels(monkeypatch):
    """It would take it for one of groups, and have it compiled by XLA."""
    widths, call = [], L.Conv2D.call

    def run(layer, inputs):
        widths.append(inputs.shape[-1])
        return call(layer, inputs)

    monkeypatch.setattr(L.Conv2D, "call", run)  # of which none has been run yet
    model, x = wide_reader(use_bias=False)  # of another kind than the one before
    network = sec.trace(model, x.astype("float32"))
    outputs_without(network, network.cut({"a": [1, 4]}), [x.astype("float32")])
    assert widths == [4, 6]


def test_a_kernel_that_loses_other_channels_than_those_it_reads_is_found():
    model, x = wide_reader()
    network = sec.trace(model, x.astype("float32"))
    cut = network.cut({"a": [1, 4]})
    kernel = cut.tensors["b.kernel"]
    wrong = {**cut.tensors, "b.kernel": replace(kernel, removed={2: (0, 4)})}
    with pytest.raises(CutError):
        sec.apply(model, replace(cut, tensors=wrong), network=network)
