"""Learned state of layers that is neither a weight nor part of the configuration."""

from collections import deque
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
import secateurs.keras
from secateurs.errors import CheckpointError, ModelError

X = np.random.default_rng(0).standard_normal((8, 3)).astype("float32")


def discretization(mode="int"):
    bins = L.Discretization(num_bins=4, output_mode=mode, name="learned")
    bins.reset_state()  # what ``adapt`` does, which would need TensorFlow
    bins.update_state(np.random.default_rng(1).standard_normal((200, 1)).astype("float32"))
    bins.finalize_state()
    return bins


def normalization():
    layer = L.Normalization(name="learned")
    layer.adapt(3 + 2 * X)
    return layer


class Learned(L.Layer):
    """A user's layer that keeps the results of ``adapt`` in plain attributes."""

    def __init__(self, begin=None, **options):
        super().__init__(**options)
        self.centre = None
        self.options = {"power": 1.0}

    def build(self, shape):
        self.steps = [0.0]

    def adapt(self, data):
        self.centre = np.asarray(data).mean(0)
        self.options["power"] = 2.0
        self.steps = [0.5, 1.0]
        self.total = 7.0

    def call(self, x):
        centred = (
            (x - keras.ops.convert_to_tensor(self.centre)) * self.options["power"] / self.total
        )
        return centred + keras.ops.cast(len(self.steps), x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config()


def build_learned():
    layer = Learned(name="learned")
    layer.build((None, 3))
    layer.adapt(X)
    return layer


@dataclass
class Learnt:
    gain: float


class Slotted:
    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number


class AnyState(L.Layer):
    """State of any kind; the name is not among the arguments that Keras serialises."""

    def __init__(self, **o):
        super().__init__(**o)
        self.state, self.of = Slotted(1.0), None

    def call(self, x):
        return x * self.of(self.state)


def any_state(state, of, **options):
    layer = AnyState(name="learned", **options)
    layer.state, layer.of = state, of
    return layer


def closing_over(number):
    return lambda state: state + number


MAKE = {
    "slots": lambda: any_state(Slotted(3.0), lambda state: state.number),
    "deque": lambda: any_state(deque([0.5, 3.0]), sum),
    "data class": lambda: any_state(Learnt(2.5), lambda state: state.gain),
    "closure": lambda: any_state(2.0, closing_over(0.75)),
    "bins": discretization,
    "bins, one hot": lambda: discretization("one_hot"),
    "normalization": normalization,
    "user's": build_learned,
    "inside another": lambda: L.TimeDistributed(build_learned(), name="outer"),
}


def make(kind):
    layer = MAKE[kind]()
    i = keras.Input((3,))
    x = layer(L.Reshape((1, 3))(i)) if kind == "inside another" else layer(i)
    x = L.Flatten()(keras.ops.cast(x, "float32"))
    # With some backends' random weights, a ReLU may zero everything.
    x = L.Dropout(0.5, name="drop")(L.Dense(6, "leaky_relu", name="hidden")(x))
    return keras.Model(i, L.Dense(2, name="head")(x))


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("call", ["cut", "edit"])
def test_learned_state_survives_surgery(kind, call):
    model = make(kind)
    if call == "edit":
        made = secateurs.keras.delete_layer(model, "drop")
    else:
        made = sec.delete_channels(model, {"hidden": [1, 4]}, X)
        kernel, bias = model.get_layer("head").get_weights()
        kernel[[1, 4]] = 0
        model.get_layer("head").set_weights([kernel, bias])
    received, expected = (m.predict(X, verbose=0) for m in (made, model))
    np.testing.assert_allclose(received, expected, atol=1e-6)
    assert np.ptp(expected) > 1e-3


def test_learned_state_is_copied():
    model = make("user's")
    made = secateurs.keras.delete_layer(model, "drop")
    made.get_layer("learned").centre[:] = 9
    assert model.get_layer("learned").centre.max() < 9


def test_sizes_that_follow_a_cut_are_not_treated_as_learned_state():
    class Scale(L.Layer):
        def __init__(self, width, **options):
            super().__init__(**options)
            self.width, self.half = width, width / 2

        def build(self, shape):
            self.scale = self.add_weight(shape=(self.width,), name="scale", initializer="ones")

        def call(self, x):
            return x * self.scale * self.half

        def get_config(self):
            return {**super().get_config(), "width": self.width}

    from secateurs.channels.cut import SizeChange
    from secateurs.keras.surgery.rebuilding import rebuild_layer

    layer = Scale(4, name="scale")
    layer.build((None, 4))
    new = rebuild_layer(layer, "scale", {"scale": [SizeChange("scale", "width", None, 4, 3)]})
    assert (new.width, new.half) == (3, 1.5)


def test_what_cannot_be_copied_is_shared():
    class Locked:
        def __init__(self):
            self.number = 3

        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    model = make("user's")
    table = model.get_layer("learned").table = Locked()
    made = secateurs.keras.delete_layer(model, "drop")
    assert made.get_layer("learned").table is table
    np.testing.assert_allclose(made.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


class Forgetful(L.Layer):
    """Sublayers with weights, and a configuration without name and dtype."""

    def __init__(self, width, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.width, self.part = width, L.Dense(width)

    def build(self, shape):
        self.part.build(shape)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.width)

    def call(self, x):
        return self.part(x)

    def get_config(self):
        return {"width": self.width}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_layer_that_forgets_its_name_keeps_its_weights(wrapped):
    kind = "bfloat16" if keras.backend.backend() == "jax" else "float64"  # JAX has no float64
    layer = Forgetful(5, name="mine", dtype=kind)
    i = keras.Input((4, 3))
    x = (L.TimeDistributed(layer, name="outer") if wrapped else layer)(i)
    x = L.Dense(6, "relu", name="hidden")(L.Flatten()(x))
    model = keras.Model(i, L.Dense(2, name="head")(L.Dropout(0.5, name="drop")(x)))
    made = secateurs.keras.delete_layer(model, "drop")
    x = np.random.default_rng(0).standard_normal((8, 4, 3)).astype("float32")
    np.testing.assert_allclose(made.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    if not wrapped:
        assert made.get_layer("mine").compute_dtype == kind


def test_a_layer_that_is_rebuilt_without_a_part_is_refused():
    class Whim(Forgetful):
        def __init__(self, width, bias=True, **options):
            super().__init__(width, **options)
            self.part = L.Dense(width, use_bias=bias)

    i = keras.Input((3,))
    x = L.Dropout(0.5, name="drop")(Whim(5, bias=False, name="mine")(i))
    with pytest.raises(
        ModelError, match=r"mine\.part: expected .* the same tensors .*an additional .*bias"
    ):
        secateurs.keras.delete_layer(keras.Model(i, x), "drop")


@keras.saving.register_keras_serializable("test_state")
class Scaled(L.Layer):
    """Contains a built-in layer that derives its output from state computed from its weights."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scale, self.part = L.Normalization(), L.Dense(5)

    def call(self, x):
        return self.part(self.scale(x))


def test_state_derived_from_weights_is_recomputed(tmp_path):
    def build():
        layer = Scaled(name="block")
        i = keras.Input((3,))
        x = L.Dropout(0.5, name="drop")(L.Dense(6, "relu", name="hidden")(layer(i)))
        return keras.Model(i, L.Dense(2, name="head")(x)), layer

    model, layer = build()
    layer.scale.adapt(3 + 2 * X)
    (kernel, bias), (hidden, begin), (head, end) = (
        part.get_weights()
        for part in (layer.part, *(model.get_layer(n) for n in ("hidden", "head")))
    )
    centred = (X - (3 + 2 * X).mean(0)) / (3 + 2 * X).std(0)
    expected = np.maximum((centred @ kernel + bias) @ hidden + begin, 0) @ head + end
    sec.save(model, tmp_path / "a.safetensors")
    for made in (
        secateurs.keras.delete_layer(model, "drop"),
        sec.load(build()[0], tmp_path / "a.safetensors"),
    ):
        np.testing.assert_allclose(made.predict(X, verbose=0), expected, atol=1e-5)
    small = sec.delete_channels(model, {"hidden": [0, 3]}, X)
    gone = np.maximum((centred @ kernel + bias) @ hidden + begin, 0)
    gone[:, [0, 3]] = 0
    np.testing.assert_allclose(small.predict(X, verbose=0), gone @ head + end, atol=1e-5)


def test_a_keras_file_that_would_give_other_outputs_is_refused(tmp_path):
    class Gained(L.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.state = Slotted(1.0)

        def call(self, x):
            return x * self.state.number

    gained = Gained(name="learned")
    gained.state = Slotted(3.0)
    model = keras.Sequential([keras.Input((3,)), gained, L.Dense(2, name="head")])
    with pytest.raises(CheckpointError, match=r"learned\.state is different after"):
        sec.save(model, tmp_path / "model.keras")
    with pytest.raises(CheckpointError, match="reading it back raised"):  # its state is None there
        sec.save(make("closure"), tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_a_keras_file_of_a_layer_that_counts_its_calls_is_written(tmp_path):
    @keras.saving.register_keras_serializable("test_state")
    class Counting(L.Layer):
        calls = None

        def call(self, x):
            self.calls = (self.calls or 0) + 1
            return x * 2

    model = keras.Sequential([keras.Input((3,)), Counting(name="c"), L.Dense(2, name="head")])
    sec.save(model, tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


class Fitted(keras.Model):
    """A layer of an unregistered class, as in a user's script."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = L.Dense(6, "relu"), L.Dense(2)

    def call(self, x):
        return self.out(self.hidden(x))


def test_records_left_by_running_a_subclassed_model_do_not_prevent_a_cut():
    model = Fitted()
    model(X)
    model.compile("adam", "mse", metrics=["mae"])
    targets = np.zeros((8, 2), "float32")
    model.fit(X, targets, validation_data=(X, targets), epochs=2, verbose=0)
    model.evaluate(X, targets, verbose=0)
    model.predict(X, verbose=0)
    small = sec.delete_channels(model, {"hidden": [1]}, X)
    assert small.hidden.units == 5
    small.fit(X, targets, verbose=0)
    assert sec.delete_channels(small, {"hidden": [0]}, X).hidden.units == 4
