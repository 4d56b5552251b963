"""The small model: configuration, weights, flags, optimizer; the user's model is unchanged."""

import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L
from keras.constraints import NonNeg
from keras.regularizers import L2

import secateurs as sec
from contract.zoo import ZOO, noisy
from secateurs.keras.model.tensors import list_tensors
from support.keras_networks import X, Y, classifier


def test_sizes_are_those_of_a_model_that_was_built_small():
    small = sec.delete_channels(classifier(), {"conv": [0, 3], "hidden": [1]})
    assert small.get_layer("conv").filters == 6
    assert small.get_layer("hidden").units == 4
    assert small.get_config() == type(small).from_config(small.get_config()).get_config()
    assert small.name == "classifier"


def test_weights_are_those_of_the_channels_that_stay():
    model = noisy(classifier())
    small = sec.delete_channels(model, {"conv": [0, 3]})
    kept = [1, 2, 4, 5, 6, 7]
    before, after = (dict(_weights(m)) for m in (model, small))
    assert np.array_equal(after["conv.kernel"], before["conv.kernel"][..., kept])
    assert np.array_equal(after["bn.moving_mean"], before["bn.moving_mean"][kept])
    rows = before["hidden.kernel"].reshape(16, 8, 5)[:, kept].reshape(-1, 5)
    assert np.array_equal(after["hidden.kernel"], rows)


def _weights(model):
    return [(leaf.name, np.asarray(leaf.array())) for leaf in list_tensors(model)]


def test_a_cut_of_key_channels_leaves_the_scores_of_attention_as_they_were():
    model = noisy(ZOO["wide_output"]())
    network = sec.trace(model)
    (keys,) = [
        g
        for g in network.groups
        if any((m.tensor, m.axis) == ("att.key.kernel", 2) for m in g.members)
    ]
    small = sec.apply(model, network.cut({keys.name: [0, 2]}), network=network)
    dense, cut = dict(_weights(model)), dict(_weights(small))
    for name in ("kernel", "bias"):  # divided by sqrt(2) now instead of sqrt(4)
        expected = dense[f"att.query.{name}"][..., [1, 3]] * np.sqrt(2 / 4)
        assert np.allclose(cut[f"att.query.{name}"], expected, rtol=1e-6)
        assert np.array_equal(cut[f"att.key.{name}"], dense[f"att.key.{name}"][..., [1, 3]])
    assert small.get_layer("att").key_dim == 2
    assert sec.report_of(small).proof.holds
    assert not sec.report_of(small).proof.inexact


def test_training_goes_on_as_it_would_have_from_a_step_of_the_dense_model():
    """With the momentum sliced along, a step of the small model is a slice of the dense one's."""
    model = classifier()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(X, Y, batch_size=4, verbose=0, shuffle=False)
    network = sec.trace(model)
    # With zero weights in the next layer, a channel is not read, so the cut changes nothing.
    hidden = model.get_layer("head")
    kernel, bias = hidden.get_weights()
    kernel[2] = 0
    hidden.set_weights([kernel, bias])
    small = sec.apply(model, network.cut({"hidden": [2]}), network=network)
    model.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
    small.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
    kept = [0, 1, 3, 4]
    dense, cut = dict(_weights(model)), dict(_weights(small))
    assert np.allclose(cut["conv.kernel"], dense["conv.kernel"], atol=1e-6)
    assert np.allclose(cut["head.kernel"], dense["head.kernel"][kept], atol=1e-6)


def test_flags_are_kept():
    model = classifier()
    model.get_layer("conv").trainable = False
    model.get_layer("head").bias.trainable = False
    small = sec.delete_channels(model, {"conv": [0]})
    assert not small.get_layer("conv").trainable
    assert not small.get_layer("head").bias.trainable
    assert small.get_layer("head").kernel.trainable
    assert len(small.trainable_variables) == len(model.trainable_variables)


@keras.saving.register_keras_serializable("rules")
class Scaled(L.Layer):
    """A layer whose own code passes rules to its weight."""

    def __init__(self, units=6, **options):
        super().__init__(**options)
        self.units = units
        self.inner = L.Dense(units)

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(
            shape=(self.units,), name="scale", initializer="ones", regularizer=L2(0.1),
            constraint=NonNeg(),
        )  # fmt: skip
        self.built = True

    def call(self, x):
        return self.inner(x) * self.scale

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_rules_of_a_users_own_weight_are_kept():
    model = keras.Sequential([keras.Input((4,)), Scaled(name="a"), L.Dense(2)])
    model.get_layer("a").scale.assign([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    small = sec.delete_channels(model, {"a.inner": [1, 3]})
    (loss,) = small.losses
    loss = keras.ops.convert_to_numpy(loss)
    assert loss == pytest.approx(0.1 * (0.1**2 + 0.3**2 + 0.5**2 + 0.6**2))
    small.compile(keras.optimizers.SGD(100.0), "mse")
    random = np.random.default_rng(0)
    small.fit(random.random((4, 4)), random.random((4, 2)), verbose=0)
    scale = keras.ops.convert_to_numpy(small.get_layer("a").scale)
    assert scale.min() == 0.0  # one step went below
    assert model.get_layer("a").scale.regularizer is not small.get_layer("a").scale.regularizer


def test_rules_set_on_a_variable_are_kept_however_often_its_kind_was_cut():
    model = keras.Sequential(
        [keras.Input((4,)), *[L.Dense(6, name=name) for name in "abc"], L.Dense(2)]
    )
    for name, factor in (("a", 0.5), ("b", 0.25)):
        model.get_layer(name).kernel.regularizer = L2(factor)
    model.get_layer("c").kernel_regularizer = L2(2.0)  # too late: the kernel has none
    kernels = [model.get_layer(name).get_weights()[0] for name in "ab"]
    penalties = [0.5 * (kernels[0][:, 1:] ** 2).sum(), 0.25 * (kernels[1][1:] ** 2).sum()]
    for _ in range(3):
        small = sec.delete_channels(model, {"a": [0]})
        losses = [keras.ops.convert_to_numpy(loss) for loss in small.losses]
        assert losses == pytest.approx(penalties, rel=1e-5)


def test_initialisers_are_kept():
    """Layers are rebuilt with zeros for speed; afterwards they have their own initialisers."""
    small = sec.delete_channels(classifier(kernel_initializer="he_normal"), {"conv": [0]})
    assert isinstance(small.get_layer("conv").kernel_initializer, keras.initializers.HeNormal)
    assert isinstance(small.get_layer("head").kernel_initializer, keras.initializers.GlorotUniform)


def test_types_are_kept():
    policy = keras.DTypePolicy("mixed_bfloat16")
    i = keras.Input((6,))
    x = L.Dense(8, dtype=policy, name="d")(i)
    model = keras.Model(i, L.Dense(2, dtype="float32", name="head")(x))
    small = sec.delete_channels(model, {"d": [0, 1]})
    assert small.get_layer("d").dtype_policy.name == "mixed_bfloat16"
    assert small.get_layer("head").compute_dtype == "float32"


def test_half_precision_weights_are_cut_too():
    i = keras.Input((6,))
    x = L.Dense(8, dtype="bfloat16", name="d")(i)
    model = keras.Model(i, L.Dense(2, dtype="bfloat16", name="head")(x))
    network = sec.trace(model)
    assert network.bytes() == 2 * network.params()
    assert sec.score(network)["d"].shape == (8,)
    assert sec.report_of(sec.apply(model, network.cut({"d": [0]}), network=network)).proof.holds


def test_shared_layers_stay_shared():
    small = sec.delete_channels(ZOO["shared_layers"](), {"c": [0]})
    assert len([layer for layer in small.layers if layer.name == "c"]) == 1
    assert len(small.get_layer("c")._inbound_nodes) == 2


def test_a_nested_model_stays_a_model_with_its_name():
    small = sec.delete_channels(ZOO["nested_model"](), {"encoder.c": [0], "a": [1]})
    encoder = small.get_layer("encoder")
    assert isinstance(encoder, keras.Model)
    assert encoder.input_shape == (None, 8, 8, 5)
    assert encoder.get_layer("c").filters == 4
    assert isinstance(small.get_layer("tail"), keras.Sequential)


def test_users_functions_are_kept():
    i = keras.Input((6,))
    x = L.Lambda(lambda t: 2 * t, name="double")(i)
    x = L.Dense(6, activation=_square, name="odd")(x)
    model = keras.Model(i, L.Dense(2, name="head")(L.Dense(4, name="d")(x)))
    small = sec.delete_channels(model, {"d": [0]})
    assert small.get_layer("odd").activation is _square


def _square(x):
    return x * x


def test_a_layer_that_cannot_be_rebuilt_is_refused():
    class Closed(L.Layer):
        def __init__(self, function):
            super().__init__(name="closed")
            self.function = function

        def call(self, x):
            return self.function(x)

    i = keras.Input((6,))
    model = keras.Model(i, L.Dense(2, name="head")(L.Dense(4, name="d")(Closed(abs)(i))))
    # Its class has no configuration, so the object is copied.
    small = sec.delete_channels(model, {"d": [0]})
    assert isinstance(small.get_layer("closed"), Closed)

    class Unknown(L.Dense):
        def get_config(self):
            raise NotImplementedError("no configuration")

    model = keras.Model(i, L.Dense(2, name="head")(Unknown(4, name="own")(i)))
    with pytest.raises(sec.ModelError, match=r"own: expected a layer that can be rebuilt"):
        sec.delete_channels(model, {"own": [0]})


def test_the_users_random_numbers_are_left_as_they_were():
    model = classifier()
    random.seed(3)
    state = random.getstate()
    sec.delete_channels(model, {"conv": [0]})
    assert random.getstate() == state


def test_training_the_small_model_leaves_the_dense_one_alone():
    model = classifier()
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    before = model.get_weights()
    small = sec.delete_channels(model, {"hidden": [0]})
    small.fit(X, Y, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    model.fit(X, Y, verbose=0)


def test_keras_alone_loads_what_was_saved(tmp_path):
    model = noisy(ZOO["transformer"]())
    network = sec.trace(model)
    cut = network.cut({group.name: [0] for group in network.groups})
    small = sec.apply(model, cut, network=network, proof=False)
    small.save(tmp_path / "small.keras")
    x = np.array([[1, 2, 3, 4, 5]])
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model(r'{tmp_path / 'small.keras'}')\n"
        f"y = model(np.load(r'{tmp_path / 'x.npy'}'))\n"
        f"np.save(r'{tmp_path / 'y.npy'}', keras.ops.convert_to_numpy(y))\n"
        "assert 'secateurs' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    y = keras.ops.convert_to_numpy(small(x))
    assert np.allclose(np.load(tmp_path / "y.npy"), y, atol=1e-6)


def test_a_cut_fits_a_model_that_was_built_alike():
    cut = sec.report_of(sec.delete_channels(classifier(), {"conv": [0]})).cut
    assert sec.report_of(sec.apply(classifier(), cut)).proof.holds
    with pytest.raises(sec.CutError, match=r"conv.kernel: expected shape .* received a model with"):
        sec.apply(classifier(use_bias=False, kernel_size=2) if False else _wider(), cut)


def _wider():
    i = keras.Input((6, 6, 3))
    x = L.BatchNormalization(name="bn")(L.Conv2D(9, 3, name="conv")(i))
    x = L.Dense(5, activation="relu", name="hidden")(L.Flatten()(x))
    return keras.Model(i, L.Dense(2, name="head")(x))
