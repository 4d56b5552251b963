"""Models and inputs that cannot be used raise one clear error each."""

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


def test_a_model_that_is_not_built_is_refused():
    built_later = keras.Sequential([L.Dense(4), L.Dense(2)], name="later")
    with pytest.raises(sec.ModelError, match=r"later: expected a model that is built.*later.build"):
        sec.trace(built_later)
    built_later.build((None, 3))
    assert sec.trace(built_later).groups


def test_a_sequential_subclass_is_refused_with_the_remedy():
    class Own(keras.Sequential):
        def call(self, x, training=None, mask=None):
            return 2 * super().call(x)

    custom = Own([keras.Input((3,)), L.Dense(4, name="a"), L.Dense(2, name="b")], name="own")
    with pytest.raises(sec.ModelError, match=r"own: .*Own, a subclass.*Sequential\(model.layers"):
        sec.trace(custom)
    plain = keras.Sequential([keras.Input((3,)), *custom.layers])
    assert [g.name for g in sec.trace(plain).groups] == ["a"]


class Backbone(keras.Model):
    """A functional model with a custom constructor, like KerasHub's backbones."""

    def __init__(self, width, **options):
        i = keras.Input((3,))
        hidden = L.Dense(width, activation="relu", name="d")(i)
        super().__init__(inputs=i, outputs=L.Dense(2, name="out")(hidden), **options)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


@pytest.mark.parametrize("inside", [False, True])
def test_a_functional_model_with_a_custom_constructor_becomes_a_plain_one(inside):
    model = Backbone(5, name="backbone")
    prefix = "backbone." if inside else ""
    if inside:
        i = keras.Input((3,))
        model = keras.Model(i, L.Dense(2, name="head")(model(i)))
    x = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")
    small = sec.delete_channels(model, {f"{prefix}d": [1, 3]}, x)
    custom = model.get_layer("backbone") if inside else model
    kernel, bias = custom.get_layer("out").get_weights()
    kernel[[1, 3]] = 0
    custom.get_layer("out").set_weights([kernel, bias])
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_a_custom_constructor_with_a_custom_training_step_is_refused():
    class Trained(Backbone):
        def train_step(self, *arguments):
            return super().train_step(*arguments)

    with pytest.raises(sec.ModelError, match=r"train_step.*keras.Model\(model.input, model.output"):
        sec.trace(Trained(4))


def test_a_nested_model_with_a_custom_call_is_not_entered():
    class Doubled(keras.Model):
        def __init__(self, inputs, outputs, name=None, **options):
            super().__init__(inputs, outputs, name=name, **options)

        def call(self, x, training=None, mask=None):
            return 2 * super().call(x)

    i = keras.Input((3,))
    inner = Doubled(i, L.Dense(4, name="b")(L.Dense(5, name="a")(i)), name="inner")
    start = keras.Input((3,))
    model = keras.Model(start, L.Dense(2, name="head")(L.Dense(6, name="c")(inner(start))))
    assert [group.name for group in sec.trace(model).groups] == ["c"]


def test_a_model_of_another_keras_is_refused():
    """A model from before ``keras.config.set_backend`` reloaded Keras."""
    gone = type("Model", (), {"__module__": "keras.src.models.model"})
    with pytest.raises(sec.ModelError, match="KERAS_BACKEND"):
        check_model(gone())
    with pytest.raises(sec.ModelError, match=r"expected a keras.Model; received int"):
        check_model(3)


def test_tensors_of_another_framework_are_refused():
    class Foreign:
        __module__ = "tensorflow" if keras.backend.backend() != "tensorflow" else "torch"
        shape, dtype = (1, 6), "float32"

    with pytest.raises(sec.ModelError, match=r"x: expected a NumPy array or a tensor of the back"):
        sec.trace(small(), Foreign())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 5)), r"x: expected an input of shape \(None, 6\); received \(1, 5\)"),
        (np.zeros(6), r"x: expected an input of shape \(None, 6\); received \(6,\)"),
        ([np.zeros((1, 6))] * 2, r"net: expected 1 inputs \(x\); received 2"),
        ({"y": np.zeros((1, 6))}, r"net: expected an input named 'x'; received inputs named 'y'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(given, message):
    with pytest.raises(sec.ModelError, match=message):
        sec.trace(small(), given)


@pytest.mark.parametrize(
    "given", [np.zeros((1, 6)), [np.zeros((1, 6))], {"x": np.zeros((1, 6))}, [[0.0] * 6]]
)
def test_inputs_may_be_arrays_tensors_tuples_or_dictionaries(given):
    if isinstance(given, list) and isinstance(given[0], list):
        given = np.asarray(given)
    assert sec.trace(small(), given).macs() == 32


def test_a_model_of_text_needs_example_inputs():
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


def test_inputs_are_formatted_by_shape_and_dtype():
    assert format_inputs({"a": np.zeros((2, 3), "float32")}) == "{a: (2, 3) float32}"
    assert format_inputs((np.zeros(2, "int32"), 5)) == "((2,) int32, int)"


def answers(model, given):
    return keras.ops.convert_to_numpy(model(given))


class Named(keras.Model):
    """Takes its inputs by name, some of them in a nested list."""

    def __init__(self):
        super().__init__(name="named")
        self.a, self.b, self.out = L.Dense(5), L.Dense(5), L.Dense(2)

    def call(self, inputs):
        return self.out(self.a(inputs["x"]) * self.b(inputs["rest"][0]))


@pytest.mark.parametrize("subclassed", [True, False])
def test_nested_inputs_keep_their_structure_and_names(subclassed):
    x, y = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
    given = {"x": x, "rest": [y]}
    if subclassed:
        model = Named()
        a, b, out = model.a, model.b, model.out
    else:
        inputs = {"x": keras.Input((3,), name="x"), "rest": [keras.Input((3,), name="two")]}
        a, b, out = L.Dense(5, name="a"), L.Dense(5, name="b"), L.Dense(2, name="out")
        model = keras.Model(inputs, out(a(inputs["x"]) * b(inputs["rest"][0])))
    model(given)
    network = sec.trace(model, given)
    small = sec.apply(model, network.cut({"a": [1, 2]}), given, proof="independent")
    (ka, ba), (kb, bb), (ko, bo) = (layer.get_weights() for layer in (a, b, out))
    product = ((x @ ka + ba) * (y @ kb + bb))[:, [0, 3, 4]]
    np.testing.assert_allclose(answers(small, given), product @ ko[[0, 3, 4]] + bo, atol=1e-5)


def test_a_model_built_by_name_needs_no_examples_to_be_loaded(tmp_path):
    class Flat(Named):
        def call(self, inputs):
            return super().call({"x": inputs["x"], "rest": [inputs["y"]]})

    def build():
        model = Flat()
        model(given)
        return model

    x, y = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
    given = {"x": x, "y": y}
    model = build()
    small = sec.delete_channels(model, {"a": [1]}, given)
    sec.save(small, tmp_path / "a.safetensors")
    again = sec.load(build(), tmp_path / "a.safetensors")
    np.testing.assert_allclose(answers(again, given), answers(small, given), atol=1e-6)
