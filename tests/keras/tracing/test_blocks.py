"""Residual blocks of Keras models are found, and each can be removed."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
from support import keras_residual_networks as networks

X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")

FOUND = {
    networks.residual: ["b0_sum", "b1_sum", "b2_sum", "b3_sum"],
    networks.build_projection: ["sum"],
    networks.encoders: ["layer0", "layer1", "layer2"],
    networks.build_stack: ["alone", "stack.unit0", "stack.unit1", "stack.unit2"],
    networks.Subclassed: ["units.0", "units.1", "units.2"],
}


def build_seeded(build):
    keras.utils.set_random_seed(1)
    model = build()
    model(X)
    random = np.random.default_rng(2)
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            drawn = 0.3 * random.normal(size=tuple(variable.shape))
            positive = variable.name.endswith("variance")
            begin = keras.ops.convert_to_numpy(variable.value)
            variable.assign(np.abs(drawn) + 0.5 if positive else begin + drawn)
    return model


def answers(model, images=X):
    return np.asarray(keras.ops.convert_to_numpy(model(images, training=False)))


@pytest.mark.parametrize("build", FOUND, ids=lambda build: build.__name__)
def test_each_block_can_be_removed_as_zeros_in_its_weights_confirm(build):
    model = build_seeded(build)
    network = sec.trace(model, X)
    assert [block.name for block in network.blocks] == FOUND[build]
    for block in network.blocks:
        small = sec.apply(model, network.cut_of_blocks([block.name]), X, network=network)
        zeroed = build_seeded(build)
        for name, leaf in sec.trace(zeroed, X).source.leaves.items():
            if block.cut.takes_with_it(name) and not name.endswith("moving_variance"):
                leaf.variable.assign(np.zeros(leaf.shape))
        assert np.allclose(answers(small), answers(zeroed), atol=1e-5)
        assert not np.allclose(answers(small), answers(model), atol=1e-3)
        assert block.params > 0
        assert block.macs > 0


def test_attention_and_the_layers_after_it_are_blocks_of_one_graph():
    model = build_seeded(networks.transformer)
    network = sec.trace(model, X)
    inside = [block.cut.layers for block in network.blocks]
    assert inside == [
        ("l0_norm", "l0_attention"),
        ("l0_norm2", "l0_wide", "l0_narrow"),
        ("l1_norm", "l1_attention"),
        ("l1_norm2", "l1_wide", "l1_narrow"),
    ]


def test_the_change_of_a_block_is_one_minus_the_cosine():
    model = build_seeded(networks.residual)
    network = sec.trace(model, X)
    between = [model.get_layer(name).output for name in ("stem_relu", "b0_sum")]
    probe = keras.Model(model.inputs, between)
    x, y = (one.ravel() for one in probe.predict(X, verbose=0))
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert network.blocks[0].change == pytest.approx(1 - cosine, abs=1e-5)


def graph(last):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
    return inputs, x, last(x)


def outputs_of_none():
    """The branch has another reader."""
    inputs, x, y = graph(L.Conv2D(4, 3, padding="same", name="branch"))
    total = L.Add(name="sum")([x, y])
    return keras.Model(inputs, [L.Flatten()(total), L.Flatten()(y)])


def layer_used_twice():
    inputs, x, y = graph(shared := L.Conv2D(4, 3, padding="same", name="shared"))
    return keras.Model(inputs, L.Add(name="sum")([x, L.ReLU()(y)]) + shared(x * 2))


def positions_alone():
    inputs = keras.Input((8,), dtype="int32")
    x = L.Embedding(10, 4, name="words")(inputs)
    y = L.Embedding(8, 4, name="places")(0 * inputs + ops.arange(8)[None])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Add(name="sum")([x, y]))))


def broadcast_sum():
    inputs, x, y = graph(L.GlobalAveragePooling2D(keepdims=True))
    y = L.Conv2D(4, 1, name="gate")(y)
    return keras.Model(inputs, L.Add(name="sum")([x, y]))


@pytest.mark.parametrize(
    "build", [outputs_of_none, layer_used_twice, positions_alone, broadcast_sum]
)
def test_other_sums_are_not_blocks(build):
    model = build()
    images = np.zeros((2, 8), "int32") if build is positions_alone else X[:2]
    assert [block.name for block in sec.trace(model, images).blocks] == []


def test_inner_blocks_are_chosen_before_the_one_around_them():
    inputs, x, y = graph(L.Conv2D(4, 3, padding="same", name="first"))
    y = L.Add(name="inner")([y, L.Conv2D(4, 3, padding="same", name="second")(y)])
    model = keras.Model(inputs, L.Add(name="outer")([x, y]))
    assert [block.name for block in sec.trace(model, X).blocks] == ["inner"]


def test_blocks_of_a_nested_model_are_found():
    inner_input = keras.Input((8, 8, 4))
    y = L.Conv2D(4, 3, padding="same", name="conv")(inner_input)
    inner = keras.Model(inner_input, L.Add(name="sum")([inner_input, y]), name="inner")
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(4, 1, name="stem"), inner, L.Flatten(), L.Dense(2)]
    )
    network = sec.trace(model, X)
    assert [block.name for block in network.blocks] == ["inner.sum"]
    small = sec.apply(model, network.cut_of_blocks(["inner.sum"]), X, proof="independent")
    stem, head = model.layers[0], model.layers[-1]
    expected = keras.ops.convert_to_numpy(head(L.Flatten()(stem(X))))
    assert np.allclose(answers(small), expected, atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Halved(L.LayerNormalization):
    def call(self, inputs):
        return 0.5 * inputs


LAST = {"norm": L.LayerNormalization, "relu": L.ReLU, "halved": Halved}


@keras.saving.register_keras_serializable("tests")
class PostNorm(L.Layer):
    """As in BERT: each sum is normalised."""

    def __init__(self, last="norm", **options):
        super().__init__(**options)
        self.first, self.second = L.Dense(8, "relu"), L.Dense(8)
        self.norm, self.last = L.LayerNormalization(), LAST[last]()

    def build(self, shape):
        for layer in (self.first, self.second, self.norm, self.last):
            layer.build(shape)

    def call(self, x):
        x = self.norm(x + self.first(x))
        return self.last(x + self.second(x))


def post_norm(kinds=("norm", "norm")):
    inputs = keras.Input((8, 8, 3))
    x = L.Dense(8, name="stem")(inputs)
    for number, last in enumerate(kinds):
        x = PostNorm(last, name=f"layer{number}")(x)
    return keras.Model(inputs, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x)))


def test_a_layer_that_normalises_its_skip_goes_with_its_normalisations():
    model = build_seeded(post_norm)
    network = sec.trace(model, X)
    assert [block.name for block in network.blocks] == ["layer0", "layer1"]
    norms = ("layer_norm on the skip of layer1",) * 2
    assert network.blocks[1].inexact == norms
    assert network.blocks[1].params == 2 * (8 * 8 + 8) + 2 * 2 * 8
    cut = network.cut_of_blocks(["layer1"])
    small = sec.apply(model, cut, X, network=network, proof="independent")
    proof = sec.report_of(small).proof
    assert proof.inexact == norms[:1]
    assert proof.independent is None  # with its weights at zero, the layer gives zeros
    without = keras.Model(model.input, model.get_layer("layer1").input)
    before = keras.ops.convert_to_numpy(without(X)).mean(axis=(1, 2))
    weights, bias = model.get_layer("head").get_weights()
    assert np.allclose(answers(small), before @ weights + bias, atol=1e-4)
    images, others = np.random.default_rng(3).normal(size=(2, 96, 8, 8, 3)).astype("float32")
    repaired = sec.repair(small, model, images)
    wanted = answers(model, others)
    lost = [np.square(answers(one, others) - wanted).mean() for one in (small, repaired)]
    assert lost[1] < 0.1 * lost[0]


@pytest.mark.parametrize("last", ["relu", "halved"])
def test_a_norm_beside_an_activation_or_of_another_kind_stays(last):
    model = post_norm((last, "norm"))
    assert [block.name for block in sec.trace(model, X).blocks] == ["layer1"]
