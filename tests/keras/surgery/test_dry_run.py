"""Sizes in a layer's code: channels are free where a size follows them, and frozen elsewhere."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec


class Flat(L.Layer):
    """Reshapes to the number of columns, taken from the shape or written as a number."""

    def __init__(self, written, **options):
        super().__init__(**options)
        self.written = written
        self.dense = L.Dense(6, name="inner")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        x = self.dense(x)
        width = 6 if self.written else x.shape[-1]
        return ops.reshape(x, (-1, width))

    def get_config(self):
        return {**super().get_config(), "written": self.written}


keras.saving.register_keras_serializable("test_dry_run")(Flat)


@pytest.mark.parametrize("written", [False, True])
def test_a_length_that_does_not_follow_freezes_its_channels(written):
    i = keras.Input((4,))
    network = sec.trace(keras.Model(i, L.Dense(2)(Flat(written, name="h")(i))))
    free = [group.name for group in network.groups]
    frozen = [reason for one in network.frozen for reason in one.reasons]
    assert bool(free) != written
    assert any("does not follow" in reason for reason in frozen) == written


@keras.saving.register_keras_serializable("test_dry_run")
class Folded(L.Layer):
    """Heads of fixed sizes, whose result is reshaped to the layer's input shape."""

    def __init__(self, **options):
        super().__init__(**options)
        self.heads, self.width, self.into, self.out = 2, 4, L.Dense(8), L.Dense(8)
        self.after = L.Dense(6, activation="relu")

    def build(self, shape):
        self.input_spec = L.InputSpec(ndim=len(shape), axes={-1: shape[-1]})
        self.into.build(shape)
        self.out.build(shape)
        self.after.build(shape)

    def call(self, x):
        rows = keras.ops.shape(x)
        h = keras.ops.reshape(self.into(x), (*rows[:2], self.heads, self.width))
        h = keras.ops.softmax(h, axis=-1) if self.input_spec.ndim == 3 else h
        return self.after(self.out(keras.ops.reshape(h, rows)))


def test_a_shape_taken_from_another_tensor_freezes_both_if_one_is_frozen():
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    i = keras.Input((5, 3))
    h = Folded(name="folded")(L.Dense(8, name="before")(i))
    model = keras.Model(i, L.Dense(2, name="head")(h))
    network = sec.trace(model, x)
    reasons = {name: frozen.reasons for frozen in network.frozen for name in frozen.members}
    assert "their number is also another size, which does not follow" in reasons["before"]
    assert {group.name for group in network.groups} == {"folded.out", "folded.after"}
    gone = {"folded.out": [0, 5], "folded.after": [1, 2]}
    small = sec.delete_channels(model, gone, x)
    for layer, rows in (
        (model.get_layer("folded").after, [0, 5]),
        (model.get_layer("head"), [1, 2]),
    ):
        kernel, bias = layer.get_weights()
        kernel[rows] = 0
        layer.set_weights([kernel, bias])
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
