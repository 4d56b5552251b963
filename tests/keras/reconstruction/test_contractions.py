"""Layers as matrix products: patches times matrix equals the layer's output."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.keras.reconstruction.contractions import tables
from secateurs.keras.reconstruction.parts import map_of

LAYERS = {
    "dense": (lambda: L.Dense(4), (6, 3)),
    "einsum": (lambda: L.EinsumDense("abc,cde->abde", (6, 2, 5), bias_axes="de"), (6, 3)),
    "conv": (lambda: L.Conv2D(4, (3, 2), strides=(2, 1), padding="same"), (7, 6, 3)),
    "dilated": (lambda: L.Conv2D(4, 3, dilation_rate=2), (7, 7, 3)),
    "grouped": (lambda: L.Conv2D(4, 3, groups=2), (5, 5, 6)),
    "causal": (lambda: L.Conv1D(4, 3, padding="causal"), (7, 3)),
    "depthwise": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 3)),
    "transposed": (lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"), (4, 4, 3)),
    "batch norm": (L.BatchNormalization, (5, 3)),
    "layer norm": (L.LayerNormalization, (5, 3)),
    "group norm": (lambda: L.GroupNormalization(2), (5, 4)),
}


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_matrix_equals_the_output(name):
    make, shape = LAYERS[name]
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *shape)).astype("float32")
    layer = make()
    layer(x)
    layer.set_weights([random.uniform(0.5, 1.5, one.shape) for one in layer.weights])
    y = numpy(layer(x))
    known = map_of(layer, [x], [keras.KerasTensor(x.shape)])
    u, (rows,) = tables(known, x, [y], y.size, 0)
    matrix = known.matrix(numpy(known.kernel))
    assert u.shape[::2] == (known.groups, known.inputs)
    assert np.allclose(u @ matrix + known.bias_rows(numpy(known.bias)), rows, atol=1e-4)
    assert np.allclose(known.weight_from(matrix), numpy(known.kernel))
    intercept = known.bias_rows(numpy(known.bias))[:, 0]
    assert np.allclose(known.bias_from(intercept), numpy(known.bias))


def test_rows_are_sampled_at_random_and_alike_for_every_table():
    layer = L.Dense(2)
    x = np.random.default_rng(0).normal(size=(3, 50, 4)).astype("float32")
    y = numpy(layer(x))
    known = map_of(layer, [x], [keras.KerasTensor(x.shape)])
    u, (rows, twice) = tables(known, x, [y, 2 * y], 10, seed=5)
    assert u.shape == (1, 30, 4)
    assert np.allclose(twice, 2 * rows)
    assert np.allclose(u[0] @ numpy(layer.kernel), rows[0], atol=1e-5)
