"""Deleting, inserting and replacing layers."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import ZOO, noisy
from secateurs.keras import delete_layer, insert_layer, replace_layer
from secateurs.keras.model.tensors import list_tensors

X = np.random.default_rng(0).standard_normal((2, 6)).astype("float32")


def model():
    i = keras.Input((6,))
    x = L.Dense(4, name="a")(i)
    x = L.Dense(4, name="b")(L.ReLU(name="act")(x))
    return noisy(keras.Model(i, L.Dense(2, name="head")(x)))


def sequence():
    return noisy(
        keras.Sequential(
            [
                keras.Input((6,)),
                L.Dense(4, name="a"),
                L.ReLU(name="act"),
                L.Dense(4, name="b"),
                L.Dense(2, name="head"),
            ]
        )
    )


def by_hand(model, *names):
    x = X
    for name in names:
        x = model.get_layer(name)(x)
    return np.asarray(keras.ops.convert_to_numpy(x))


def predict(model):
    return np.asarray(keras.ops.convert_to_numpy(model(X)))


both = pytest.mark.parametrize("build", [model, sequence])


@both
def test_a_layer_is_deleted(build):
    before = build()
    after = delete_layer(before, "b")
    assert np.allclose(predict(after), by_hand(before, "a", "act", "head"), atol=1e-6)
    assert [layer.name for layer in after.layers if layer.weights] == ["a", "head"]
    assert type(after) is type(before)
    assert len(before.layers) == len(build().layers)


@both
def test_a_layer_is_inserted(build):
    before = build()
    after = insert_layer(before, "b", L.Dense(4, kernel_initializer="identity", name="c"))
    assert np.allclose(predict(after), predict(before), atol=1e-6)
    assert [layer.name for layer in after.layers if layer.weights] == ["a", "b", "c", "head"]


@both
def test_a_layer_is_replaced(build):
    before = build()
    after = replace_layer(before, "act", L.Activation("tanh", name="act"))
    x = np.tanh(by_hand(before, "a"))
    for name in ("b", "head"):
        x = before.get_layer(name)(x)
    assert np.allclose(predict(after), keras.ops.convert_to_numpy(x), atol=1e-6)


def test_a_layer_with_weights_of_its_own_keeps_them():
    new = L.Dense(4, kernel_initializer="ones", name="b")
    after = replace_layer(model(), "b", new)
    assert np.array_equal(after.get_layer("b").get_weights()[0], np.ones((4, 4)))


def test_a_layer_in_a_nested_model_is_edited():
    before = noisy(ZOO["nested_model"]())
    after = delete_layer(before, "encoder.bn")
    assert [layer.name for layer in after.get_layer("encoder").layers][1:] == ["c"]
    assert sec.trace(after).groups


def test_an_edited_model_is_compiled_as_before():
    before = model()
    before.compile("adam", "mse")
    after = delete_layer(before, "act")
    assert after.compiled
    after.fit(X, np.zeros((2, 2)), verbose=0)


def test_edits_that_do_not_fit_are_refused():
    with pytest.raises(sec.UnknownNameError, match="no layer named 'bb'; did you mean 'b'"):
        delete_layer(model(), "bb")
    with pytest.raises(sec.ModelError, match=r"a: .*b\.kernel|a: expected .*b\.kernel"):
        delete_layer(model(), "a")
    with pytest.raises(sec.ModelError, match=r"wide: expected its result to be as wide as before"):
        insert_layer(model(), "act", L.Dense(7, name="wide"))
    with pytest.raises(sec.ModelError, match=r"b: expected a layer with a name of its own"):
        insert_layer(model(), "act", L.Dense(4, name="b"))
    with pytest.raises(sec.ModelError, match=r"conv: the layers around it do not fit together"):
        insert_layer(model(), "act", L.Conv2D(4, 3, name="conv"))
    with pytest.raises(sec.ModelError, match=r"expected a keras.Layer; received function"):
        insert_layer(model(), "act", keras.ops.relu)


@pytest.mark.parametrize("kind", ["sgd", "adam", "rmsprop"])
def test_optimizer_state_of_kept_layers_is_kept_in_a_trained_model(kind):
    """Each optimizer state follows its weight; an inserted layer starts with a fresh state."""
    rate = {"sgd": keras.optimizers.SGD(0.1, momentum=0.9), "adam": "adam", "rmsprop": "rmsprop"}
    model = keras.Sequential(
        [keras.Input((6,)), *(L.Dense(8, "relu", name=name) for name in "ab"), L.Dense(3, name="c")]
    )
    model.compile(rate[kind], "mse")
    x = np.random.default_rng(0).standard_normal((32, 6)).astype("float32")
    model.fit(x, x[:, :3], verbose=0)
    deleted = delete_layer(model, "b")
    inserted = insert_layer(model, "a", L.Dense(8, name="new"))

    def states(made):
        weights = [leaf.name for leaf in list_tensors(made)]
        found = {}
        for variable in made.optimizer.variables:
            layer = next((n for n in weights if n.replace(".", "_") in variable.path), "")
            found.setdefault(layer, []).append(np.asarray(keras.ops.convert_to_numpy(variable)))
        return found

    before = states(model)
    assert any(np.any(s) for name, slots in before.items() if name for s in slots)
    for made, gone, come in ((deleted, "b.", "?"), (inserted, "?", "new.")):
        after = states(made)
        assert {n for n in before if n.startswith(gone)} == before.keys() - after.keys()
        for name, slots in after.items():
            for mine, theirs in zip(slots, before.get(name, slots), strict=True):
                np.testing.assert_array_equal(mine, theirs)
            if name.startswith(come):
                assert not any(np.any(state) for state in slots)
        made.fit(x, x[:, :3], verbose=0)
