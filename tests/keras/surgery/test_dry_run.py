"""Numbers in a layer's code: those that follow the channels stay free, others freeze them."""

import keras
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec


class Flat(L.Layer):
    """Reshapes to as many columns as there are, told by the shape or by a number."""

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
