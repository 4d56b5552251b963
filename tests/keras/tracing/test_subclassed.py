"""Subclassed models are traced, cut, proven, trained, saved and loaded."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy
from secateurs.keras.model.tensors import list_tensors

X = np.random.default_rng(0).standard_normal((6, 6, 6, 3)).astype("float32")
Y = np.arange(6) % 3


class Unit(keras.Model):
    def __init__(self, filters):
        super().__init__()
        self.conv = L.Conv2D(filters, 3, padding="same")
        self.norm = L.BatchNormalization()

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training))


class Scale(L.Layer):
    """A model of a class that is not registered with Keras."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="ones", name="factor")
        super().build(shape)

    def call(self, x):
        return x * self.factor


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = Unit(8)
        self.units = [Unit(8) for _ in range(2)]
        self.scale = Scale()
        self.hidden = L.Dense(5, activation="relu")
        self.head = L.Dense(3, activation="softmax")

    def build(self, shape):
        self.shift = self.add_weight(shape=(8,), initializer="zeros", name="shift")
        super().build(shape)

    def call(self, x, training=None):
        x = self.stem(x, training=training)
        for unit in self.units:
            x = x + unit(x, training=training)
        x = keras.ops.mean(self.scale(x) + self.shift, axis=(1, 2))
        return self.head(self.hidden(x))


def build_net():
    model = Net()
    model(X[:1])
    return noisy(model)


def predict(model):
    return model.predict(X, verbose=0)


def numpys(model, stay):
    """Compute in NumPy the outputs with only these filters kept."""
    w = {leaf.name: np.asarray(leaf.array()) for leaf in list_tensors(model)}

    def unit(x, name):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        kernel = w[f"{name}.conv.kernel"][..., stay]
        kernel = kernel[:, :, stay] if name != "stem" else kernel
        h = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + w[f"{name}.conv.bias"][stay]
        h = (h - w[f"{name}.norm.moving_mean"][stay]) / np.sqrt(
            w[f"{name}.norm.moving_variance"][stay] + 1e-3
        )
        return np.maximum(h * w[f"{name}.norm.gamma"][stay] + w[f"{name}.norm.beta"][stay], 0)

    x = unit(X, "stem")
    for name in ("units.0", "units.1"):
        x = x + unit(x, name)
    x = (x * w["scale.factor"][stay] + w["shift"][stay]).mean((1, 2))
    x = np.maximum(x @ w["hidden.kernel"][stay] + w["hidden.bias"], 0)
    scores = np.exp(x @ w["head.kernel"] + w["head.bias"])
    return scores / scores.sum(-1, keepdims=True)


def test_nested_models_and_models_in_lists_are_traced():
    network = sec.trace(build_net(), X[:1])
    assert {group.name: len(group) for group in network.groups} == {"stem.conv": 8, "hidden": 5}


def test_a_cut_model_has_the_same_class_and_the_values_of_the_kept_channels():
    model = build_net()
    before = predict(model)
    small = sec.delete_channels(model, {"stem.conv": [1, 4, 6]}, X[:1])
    assert type(small) is Net
    assert type(small.units[1]) is Unit
    assert small.units[1].conv.kernel.shape == (3, 3, 5, 5)
    assert small.shift.shape == (5,)
    assert small.scale.factor.shape == (5,)
    np.testing.assert_allclose(predict(small), numpys(model, [0, 2, 3, 5, 7]), atol=2e-6)
    assert sec.report_of(small).proof.holds
    np.testing.assert_array_equal(predict(model), before)


def test_a_layer_may_be_named_by_itself_and_a_small_model_cut_again():
    model = build_net()
    small = sec.delete_channels(model, {model.hidden: [0]}, X[:1])
    again = sec.delete_channels(small, {small.hidden: [3]}, X[:1])
    straight = sec.delete_channels(model, {"hidden": [0, 4]}, X[:1])
    np.testing.assert_array_equal(predict(again), predict(straight))


def test_it_is_compiled_and_trained_as_before():
    model = build_net()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    small = sec.prune(model, X[:1], amount=0.5, criterion="l1").model
    momentum = {v.shape for v in small.optimizer.variables}
    assert (3, 3, 4, 4) in momentum
    assert (3, 3, 8, 8) not in momentum
    before = predict(small)
    small.fit(X, Y, verbose=0)
    assert np.abs(predict(small) - before).max() > 1e-4


def test_save_and_load(tmp_path):
    small = sec.delete_channels(build_net(), {"stem.conv": [0], "hidden": [2, 3]}, X[:1])
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(build_net(), tmp_path / "small.safetensors")
    assert type(loaded) is Net
    np.testing.assert_array_equal(predict(loaded), predict(small))
    with pytest.raises(sec.CheckpointError, match=r"net.* does not contain the sizes.*safetensors"):
        sec.save(small, tmp_path / "small.keras")


def test_weights_saved_by_keras_are_those_of_a_model_that_was_not_traced(tmp_path):
    model = build_net()
    sec.trace(model, X[:1])
    model.save_weights(tmp_path / "own.weights.h5")
    other = build_net()
    other.load_weights(tmp_path / "own.weights.h5")
    np.testing.assert_array_equal(predict(other), predict(model))


@pytest.mark.parametrize("criterion", ["apoz", "taylor"])
def test_criteria_that_use_images(criterion):
    model = build_net()
    result = sec.prune(model, X[:1], amount=0.4, criterion=criterion, calibration=(X, Y))
    assert result.model.stem.conv.kernel.shape[-1] == 5
    assert sec.report_of(result.model).proof.holds


class Steps(keras.Model):
    """Has its own training step and metrics, and several inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = L.Dense(6, activation="relu"), L.Dense(6, activation="relu")
        self.aside = L.Dense(2)
        self.head = L.Dense(2)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, inputs, training=None):
        x = self.a(inputs["left"]) * self.b(inputs["right"])
        return self.head(x) + (self.aside(inputs["left"]) if training else 0)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.seen.update_state(7.0)
        return keras.ops.mean(keras.ops.square(y - y_pred))


def test_named_inputs_and_a_custom_training_step():
    rng = np.random.default_rng(1)
    data = {
        "left": rng.standard_normal((4, 3)).astype("float32"),
        "right": rng.standard_normal((4, 5)).astype("float32"),
    }
    model = Steps()
    model(data, training=True)
    noisy(model)
    model.compile("sgd")
    small = sec.delete_channels(model, {"a": [0, 5]}, data)
    stay = [1, 2, 3, 4]
    w = {leaf.name: np.asarray(leaf.array()) for leaf in list_tensors(model)}
    a = np.maximum(data["left"] @ w["a.kernel"] + w["a.bias"], 0)
    b = np.maximum(data["right"] @ w["b.kernel"] + w["b.bias"], 0)
    expected = (a * b)[:, stay] @ w["head.kernel"][stay] + w["head.bias"]
    np.testing.assert_allclose(small.predict(data, verbose=0), expected, atol=1e-5)
    history = small.fit(data, np.zeros((4, 2)), verbose=0).history
    assert history["seen"] == [7.0]
    assert small.seen is not model.seen
    assert float(model.seen.result()) == 0.0


class Aside(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.aside = L.Dense(4), L.Dense(2), L.Dense(2)

    def call(self, x, training=None):
        h = self.a(x)
        return self.b(h) + (self.aside(h) if training else 0)


def test_a_layer_that_is_called_in_training_only_is_not_broken():
    model = Aside()
    x = np.ones((2, 3), "float32")
    model(x, training=True)
    with pytest.raises(sec.CutError, match=r"aside: .*training=True.*skip="):
        sec.delete_channels(model, {"a": [0]}, x)


class Values(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = L.Dense(4), L.Dense(2)

    def call(self, x):
        h = self.a(x)
        if keras.ops.convert_to_numpy(keras.ops.sum(h)) > 0:
            h = -h
        return self.b(h)


def test_code_that_cannot_be_followed_is_refused_with_its_line():
    model = Values()
    model(np.ones((2, 3), "float32"))
    with pytest.raises(sec.ModelError, match=r"values.*Values.*test_subclassed.py:\d+.*keras.ops"):
        sec.trace(model, np.ones((2, 3), "float32"))


def test_a_model_that_was_never_called_is_refused():
    with pytest.raises(sec.ModelError, match=r"net.*never called.*\(x\[:1\]\)"):
        sec.trace(Net(), X[:1])
