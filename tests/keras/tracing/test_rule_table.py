import keras
from keras import layers as L
from keras import ops

import secateurs as sec
from contract.zoo import noisy


def model(*layers, shape=(8, 8, 3)):
    return noisy(keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(2)]))


def test_a_layer_that_computes_something_else_does_not_inherit_a_rule():
    class Squared(L.Dense):
        def call(self, x):
            return super().call(x) ** ops.mean(x)

    class Renamed(L.Dense):
        pass

    def groups(kind):
        network = sec.trace(model(kind(4, name="s"), L.Dense(3, name="d"), shape=(6,)))
        return [group.name for group in network.groups]

    assert groups(Squared) == ["d"]
    keras.saving.register_keras_serializable("tests")(Squared)
    assert groups(Squared) == ["s", "d"]
    assert groups(Renamed) == ["s", "d"]
