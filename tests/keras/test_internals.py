"""What Secateurs needs of Keras that Keras does not export still does what we take it to do."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.keras import internals


def test_gradients_are_slopes_of_each_tensor():
    slopes = internals.gradient_of(lambda tensors, factor: keras.ops.sum(tensors[0] ** 2) * factor)
    x = np.array([1.0, -2.0], "float32")
    (found,) = slopes([keras.ops.convert_to_tensor(x)], 3.0)
    assert np.allclose(found, 6 * x)


def test_nodes_come_behind_those_that_they_read():
    i = keras.Input((3,))
    one, two = L.Dense(4, name="one")(i), L.Dense(4, name="two")(i)
    model = keras.Model(i, L.Add(name="sum")([one, two]))
    names = [node.operation.name for node in internals.nodes_of(internals.graph_of(model))]
    assert sorted(names[:2]) == ["one", "two"]
    assert names[2] == "sum"


def test_calls_are_intercepted_for_a_while():
    layer = L.Dense(2)
    x = np.ones((1, 3), "float32")
    before = keras.ops.convert_to_numpy(layer(x))
    with internals.intercept_calls({layer: lambda call, given: call(given) * 0}):
        assert not keras.ops.convert_to_numpy(layer(x)).any()
    assert np.array_equal(keras.ops.convert_to_numpy(layer(x)), before)


def test_what_an_optimizer_was_told_to_spare_is_told_again():
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="a"), L.Dense(2, name="b")])
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    spared = internals.variables_without_decay(optimizer, model.variables)
    assert [id(one) for one in spared] == [id(layer.bias) for layer in model.layers]
    fresh = keras.optimizers.AdamW(0.1)
    internals.exclude_from_decay_(fresh, spared)
    again = internals.variables_without_decay(fresh, model.variables)
    assert [id(one) for one in again] == [id(one) for one in spared]


def test_classes_are_found_by_name_and_others_left_out():
    assert internals.find_classes([L], "Dense", "NoSuchLayer") == (L.Dense,)
    (relu,) = internals.operation_classes("Relu")
    assert relu.__name__ == "Relu"


@pytest.mark.parametrize("kind", [keras.Sequential, keras.Model])
def test_models_are_told_from_subclasses(kind):
    plain = keras.Sequential([keras.Input((2,)), L.Dense(2)])
    if kind is keras.Model:
        plain = keras.Model(plain.inputs[0], plain.outputs[0])

    class Own(keras.Model):
        def call(self, x):
            return x

    assert (internals.is_model(plain), internals.is_subclassed(plain)) == (True, False)
    assert (internals.is_model(Own()), internals.is_subclassed(Own())) == (False, True)


def test_shapes_are_inferred_without_data():
    layer = L.Conv2D(4, 3)
    layer.build((None, 8, 8, 3))
    spec = internals.infer(layer, keras.KerasTensor((2, 8, 8, 3)))
    assert tuple(spec.shape) == (2, 6, 6, 4)
