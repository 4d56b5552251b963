"""Models and inputs that cannot be used, each with one clear error."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.model.example_inputs import check_model, format_inputs


def small(name="net"):
    i = keras.Input((6,), name="x")
    return keras.Model(
        i, L.Dense(2, name="head")(L.ReLU(name="act")(L.Dense(4, name="d")(i))), name=name
    )


def test_a_model_that_is_not_built():
    built_later = keras.Sequential([L.Dense(4), L.Dense(2)], name="later")
    with pytest.raises(sec.ModelError, match=r"later: expected a model that is built.*later.build"):
        sec.trace(built_later)
    built_later.build((None, 3))
    assert sec.trace(built_later).groups


def test_a_subclassed_model_and_the_way_out():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.a, self.b = L.Dense(4, name="a"), L.Dense(2, name="b")

        def call(self, x):
            return self.b(self.a(x))

    own = Own()
    with pytest.raises(sec.ModelError, match=r"own: .*Own, a subclass.*keras.Model\(x, model.call"):
        sec.trace(own)
    x = keras.Input((3,))
    assert [g.name for g in sec.trace(keras.Model(x, own.call(x))).groups] == ["a"]


def test_a_functional_model_whose_constructor_keras_cannot_call():
    class Own(keras.Model):
        def __init__(self, width):
            i = keras.Input((3,))
            super().__init__(i, L.Dense(2)(L.Dense(width, name="d")(i)))

    with pytest.raises(sec.ModelError, match=r"keras.Model\(model.inputs, model.outputs\)"):
        sec.trace(Own(4))
    plain = Own(4)
    assert sec.trace(keras.Model(plain.inputs, plain.outputs)).groups


def test_a_model_of_another_keras():
    """What is left of a model when ``keras.config.set_backend`` has loaded Keras anew."""
    gone = type("Model", (), {"__module__": "keras.src.models.model"})
    with pytest.raises(sec.ModelError, match="KERAS_BACKEND"):
        check_model(gone())
    with pytest.raises(sec.ModelError, match=r"expected a keras.Model; received int"):
        check_model(3)


def test_tensors_of_another_framework():
    class Foreign:
        __module__ = "tensorflow" if keras.backend.backend() != "tensorflow" else "torch"
        shape, dtype = (1, 6), "float32"

    with pytest.raises(sec.ModelError, match=r"x: expected a NumPy array or a tensor of the back"):
        sec.trace(small(), Foreign())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, 5)), r"x: expected an input of shape \(None, 6\); received \(1, 5\)"),
        (np.zeros(6), r"x: expected an input of shape \(None, 6\); received \(6,\)"),
        ([np.zeros((1, 6))] * 2, r"net: expected 1 inputs \(x\); received 2"),
        ({"y": np.zeros((1, 6))}, r"net: expected an input named 'x'; received inputs named 'y'"),
    ],
)
def test_inputs_that_do_not_fit(given, said):
    with pytest.raises(sec.ModelError, match=said):
        sec.trace(small(), given)


@pytest.mark.parametrize(
    "given", [np.zeros((1, 6)), [np.zeros((1, 6))], {"x": np.zeros((1, 6))}, [[0.0] * 6]]
)
def test_inputs_come_in_many_forms(given):
    if isinstance(given, list) and isinstance(given[0], list):
        given = np.asarray(given)
    assert sec.trace(small(), given).macs() == 32


def test_a_layer_without_weights_says_which_layer_to_name():
    with pytest.raises(sec.CutError, match=r"act: expected a layer with weights.*'d': name that"):
        sec.delete_channels(small(), {"act": [0]})


def test_text_needs_an_example():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has tensors of text")
    i = keras.Input((1,), dtype="string", name="words")
    x = L.StringLookup(vocabulary=["a", "b"])(i)
    built = keras.Model(i, L.Dense(2)(L.Dense(3, name="d")(L.Flatten()(L.Embedding(4, 5)(x)))))
    network = sec.trace(built)
    with pytest.raises(sec.ModelError, match="it takes text"):
        sec.apply(built, network.cut({"d": [0]}), network=network)
    given = np.array([["a"], ["b"]])
    small = sec.apply(built, network.cut({"d": [0]}), given, network=network)
    assert sec.report_of(small).proof.holds


def test_inputs_are_described():
    assert format_inputs({"a": np.zeros((2, 3), "float32")}) == "{a: (2, 3) float32}"
    assert format_inputs((np.zeros(2, "int32"), 5)) == "((2,) int32, int)"
