import keras
import numpy as np
from keras import layers as L

from secateurs.keras.tracing.interpreter import (
    OpInterpreter,
    as_it_is,
    call_layer,
    convert_arrays,
    inputs_of,
)

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def model():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(6, name="c"), L.ReLU(name="r")], name="in")
    i = keras.Input((4,))
    return keras.Model(i, L.Dense(2, name="head")(inner(L.Dense(5, name="a")(i))))


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_calls_are_numbered_in_order_and_nested_models_are_entered():
    seen = []

    def step(site, arguments, keywords):
        seen.append((site.index, site.path))
        return call_layer(site.operation, arguments, keywords)

    net = model()
    (found,) = OpInterpreter(step).run(net, convert_arrays(net, [X]))
    assert seen == [(0, "a"), (1, "in.c"), (2, "in.r"), (3, "head")]
    assert np.allclose(numpy(found), numpy(net(X)), atol=1e-6)


def test_the_identity_step_gives_the_models_outputs():
    net = model()
    (found,) = OpInterpreter(as_it_is).run(net, convert_arrays(net, [X]))
    assert np.array_equal(numpy(found), numpy(net(X, training=False)))


def test_layers_are_called_as_in_inference():
    assert np.array_equal(numpy(call_layer(L.Dropout(0.9), [X], {})), X)


def test_inputs_by_name_come_in_the_order_of_the_model():
    one, two = keras.Input((2,), name="one"), keras.Input((3,), name="two")
    net = keras.Model([one, two], L.Concatenate()([one, two]))
    assert inputs_of(net, {"two": "second", "one": "first"}) == ["first", "second"]
    assert inputs_of(net, ["a", "b"]) == ["a", "b"]
