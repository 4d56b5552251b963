"""The tracer's equations, on values built by hand."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.tracing.op_record import Place, Value
from secateurs.keras.tracing.rules import apply
from secateurs.keras.tracing.tracer import Tracer


def tracer_of(*layers):
    model = keras.Sequential([keras.Input((3,)), *layers])
    return Tracer(list_tensors(model), apply), model


def value(*shape):
    return Value(keras.KerasTensor(shape))


def test_axes_that_are_unified_carry_the_same_units():
    tracer, model = tracer_of(L.Dense(4, name="a"))
    kernel = tracer.weight(model.get_layer("a").kernel)
    units = tracer.unify([Place(kernel, 1)])
    made = value(2, 4)
    tracer.put(made, {-1: units})
    assert made.axes.keys() == {1}
    assert len(units) == 4
    bias = tracer.weight(model.get_layer("a").bias)
    tracer.unify([Place(made, -1), Place(bias, 0)])
    solution = tracer.equations.solve()
    assert np.array_equal(solution.atoms[bias.axes[0]], solution.atoms[kernel.axes[1]])


def test_an_axis_of_one_is_broadcast_and_gets_no_units():
    tracer, _ = tracer_of(L.Dense(4))
    made = value(2, 1)
    tracer.put(made, {-1: tracer.equations.units(1)})
    assert made.axes == {}


def test_values_are_cached_by_key():
    tracer, _ = tracer_of(L.Dense(4))
    made = [tracer.remember("key", object) for _ in range(2)]
    assert made[0] is made[1]
    assert tracer.remember("other", object) is not made[0]


@keras.saving.register_keras_serializable("tests")
class Sorts(L.Layer):
    def call(self, x):
        return keras.ops.sort(x, axis=-1)


FREEZES = {
    "softmax over these channels in sm (Softmax)": L.Softmax(name="sm"),
    "sort (Sort) runs along this axis": keras.ops.sort,
    "fft (FFT): no rule for FFT": lambda h: keras.ops.fft((h, h))[0],
    "combined with a constant in multiply (Multiply)": lambda h: h * np.arange(8, dtype=np.float32),
    "argmax (Argmax) runs along this axis": lambda h: (
        h * keras.ops.cast(keras.ops.argmax(h, axis=-1, keepdims=True), "float32")
    ),
    "roll (Roll) wraps it around": lambda h: keras.ops.roll(h, 1, axis=1),
    "lam.get_item (GetItem) picks it by its position": L.Lambda(lambda h: h - h[:, :1], name="lam"),
    "mine": Sorts(name="mine"),
}


@pytest.mark.parametrize("reason", FREEZES)
def test_a_freeze_reason_names_the_users_layer_and_the_operation(reason):
    keras.utils.clear_session()  # otherwise the numbering continues from other tests
    i = keras.Input((6,))
    h = L.Dense(8, name="first")(i)
    model = keras.Model(i, L.Dense(3, name="last")(FREEZES[reason](h)))
    network = sec.trace(model)
    stuck = [one for one in network.frozen if "first" in one.members]
    assert any(reason in why for one in stuck for why in one.reasons)


def test_a_mask_that_is_none_does_not_send_a_layer_through_keras(monkeypatch):
    """Keras notes ``mask=None`` of every call of a batch normalisation."""
    searched = []
    search = keras.layers.Layer.compute_output_spec
    monkeypatch.setattr(
        keras.layers.Layer,
        "compute_output_spec",
        lambda layer, *given, **named: (searched.append(layer), search(layer, *given, **named))[1],
    )
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="n")(keras.layers.Conv2D(4, 3, name="a")(inputs))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(x))
    searched.clear()
    network = sec.trace(model)
    assert searched == []
    assert [group.name for group in network.groups] == ["a"]
