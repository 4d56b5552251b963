"""A layer whose configuration does not list its sizes is copied with smaller ones."""

import keras
import numpy as np
from keras import layers as L

from secateurs.channels.cut import TensorCut
from secateurs.keras.surgery.shrinking import is_shrunk, shapes_by_code, shrink


@keras.saving.register_keras_serializable("test_shrinking")
class Block(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = L.Dense(4, name="inner")
        self.again = self.inner

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")
        self.table = {"of": self.inner, "size": 7}

    def call(self, x):
        return self.inner(x) * self.scale


def remake(layer, path):
    assert path == "block.inner"
    new = L.Dense(3, name=layer.name)
    new.build((None, 5))
    return new


def test_parts_are_rebuilt_and_shared_ones_stay_shared():
    block = Block(name="block")
    block(np.zeros((2, 5), "float32"))
    block.scale.assign([1.0, 2.0, 3.0, 4.0])
    new = shrink(block, "block", {"block.scale": TensorCut((4,), {0: (1,)})}, remake, {})
    assert is_shrunk(new)
    assert not is_shrunk(block)
    assert keras.ops.convert_to_numpy(new.scale).tolist() == [1.0, 3.0, 4.0]
    assert new.inner is new.again is new.table["of"] is not block.inner
    assert (new.inner.units, new.table["size"]) == (3, 7)
    assert keras.ops.convert_to_numpy(new(np.ones((2, 5), "float32"))).shape == (2, 3)
    assert block.inner.units == 4


def test_open_lengths_stay_open():
    block = Block(name="block")
    block(np.zeros((2, 5), "float32"))
    given = keras.KerasTensor((None, 5))
    assert tuple(shapes_by_code(block, given).shape) == (None, 4)
