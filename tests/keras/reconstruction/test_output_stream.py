import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.reconstruction import output_stream

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32") + 1
BATCHES = [CalibrationBatch(X[:4], None), CalibrationBatch(X[4:], None)]


def net(kind="float32"):
    layers = [L.Dense(4, dtype=kind), L.BatchNormalization(name="n", dtype=kind), L.Dropout(0.5)]
    return keras.Sequential([keras.Input((3,)), *layers, L.Dense(2, dtype=kind)])


def test_outputs_are_those_of_inference_batch_by_batch():
    model = net()
    found = [one for (one,) in output_stream.outputs(model, BATCHES)]
    assert [len(one) for one in found] == [4, 2]
    expected = keras.ops.convert_to_numpy(model(X, training=False))
    assert np.allclose(np.concatenate(found), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_a_working_copy_computes_in_single_precision(kind):
    model = net(kind)
    copy, given = output_stream.working_copy(model, X)
    assert given is X
    assert {layer.compute_dtype for layer in copy.layers if layer.weights} == {"float32"}
    for layer in copy.layers:
        for variable in layer.weights:
            variable.assign(variable.value * 2)
    output_stream.copy_weights_(copy, model)
    kernel, wide = (one.layers[0].kernel for one in (model, copy))
    assert kernel.dtype == kind
    mine, theirs = (
        keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in (kernel, wide)
    )
    assert np.allclose(mine, theirs, rtol=1e-2)


def test_the_distance_of_images_from_the_training_data_is_measured():
    model = net()
    made = keras.ops.convert_to_numpy(model.layers[0](X)).astype(np.float64)
    # Batch normalisation is initialised with mean 0 and variance 1.
    distance, layer = output_stream.unlike_calibration(model, BATCHES)
    expected = np.mean(np.square(made.mean(axis=0)) / (1 + model.get_layer("n").epsilon))
    assert layer == "n"
    assert np.isclose(distance, expected, rtol=1e-5)
    assert (
        output_stream.unlike_calibration(keras.Sequential([keras.Input((3,)), L.ReLU()]), [])
        is None
    )
