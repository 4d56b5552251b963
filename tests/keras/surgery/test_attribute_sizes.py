"""Lengths in a layer's code that are kept in its attributes follow the channels that they count."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
from contract.zoo import noisy
from secateurs.keras.proof.comparison import TwinComparison


class Attention(L.Layer):
    """``heads`` of ``width``; by one projection or three, scaled by a number of one kind."""

    def __init__(self, heads=4, width=6, joined=True, scale="literal", **options):
        super().__init__(**options)
        self.heads, self.width, self.joined, self.scale = heads, width, joined, scale
        self.parts = [
            L.Dense(heads * width * (3 if joined else 1)) for _ in range(1 if joined else 3)
        ]
        self.out = L.Dense(10)

    def build(self, shape):
        for part in self.parts:
            part.build(shape)
        self.out.build((*shape[:-1], self.heads * self.width))
        super().build(shape)

    def call(self, x):
        steps = x.shape[1]
        if self.joined:
            lengths = (-1, steps, 3, self.heads, self.width)
            q, k, v = ops.unstack(ops.reshape(self.parts[0](x), lengths), 3, axis=2)
        else:
            lengths = (-1, steps, self.heads, self.width)
            q, k, v = (ops.reshape(part(x), lengths) for part in self.parts)
        q, k, v = (ops.transpose(one, (0, 2, 1, 3)) for one in (q, k, v))
        scale = {
            "literal": 0.4,
            "width": self.width**-0.5,
            "heads": 1 / self.heads,
            "numpy": 1 / np.sqrt(self.width),
            "integer": self.width,
        }[self.scale]
        weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * scale)
        mixed = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, steps, self.heads * self.width)))

    def get_config(self):
        sizes = {"heads": self.heads, "width": self.width}
        return {**super().get_config(), **sizes, "joined": self.joined, "scale": self.scale}


keras.saving.register_keras_serializable("attribute_sizes")(Attention)
X = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")


def build(**options):
    i = keras.Input((5, 8))
    x = Attention(name="first", **options)(i)
    x = L.GlobalAveragePooling1D()(Attention(name="second", **options)(x))
    return noisy(keras.Model(i, L.Dense(3, name="head")(x)))


def count_channels(network):
    return {group.name: len(group) for group in network.groups if not group.name.endswith(".out")}


def find_heads(network):
    (name,) = [
        n for n in count_channels(network) if n.startswith("second") and n.endswith(".heads")
    ]
    return name


@pytest.mark.parametrize("joined", [True, False])
def test_heads_and_positions_follow_the_attributes_that_count_them(joined):
    model = build(joined=joined)
    network = sec.trace(model)
    assert sorted(count_channels(network).values()) == [4, 4, 6, 6]
    cut = network.cut({name: [0, 2] for name in count_channels(network)})
    small = sec.apply(model, cut, X, network=network, proof="independent")
    for name in ("first", "second"):
        assert (small.get_layer(name).heads, small.get_layer(name).width) == (2, 4)
        assert (model.get_layer(name).heads, model.get_layer(name).width) == (4, 6)


def test_a_head_that_goes_leaves_what_the_others_give():
    """Against the dense layer with zeros where the head's values are read."""
    model = build()
    network = sec.trace(model)
    small = sec.apply(model, network.cut({find_heads(network): [1]}), X, network=network)
    kernel, bias = model.get_layer("second").out.get_weights()
    kernel[6:12] = 0
    model.get_layer("second").out.set_weights([kernel, bias])
    expected = model.predict(X, verbose=0)
    np.testing.assert_allclose(small.predict(X, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "free"),
    [
        ("width", {4}),
        ("heads", {6}),
        ("literal", {4, 6}),
        ("numpy", {4}),
        ("integer", {4}),
    ],
)
def test_what_a_factor_is_computed_from_stays(scale, free):
    network = sec.trace(build(scale=scale))
    assert set(count_channels(network).values()) == free


def test_as_many_heads_as_positions_are_told_apart():
    model = build(heads=4, width=4)
    network = sec.trace(model)
    assert list(count_channels(network).values()) == [4, 4, 4, 4]
    for name in count_channels(network):
        small = sec.apply(model, network.cut({name: [0]}), X, network=network, proof="independent")
        layer = small.get_layer(name.partition(".")[0])
        expected = (3, 4) if name.endswith(".heads") else (4, 3)
        assert (layer.heads, layer.width) == expected, name


def test_a_cut_by_attributes_is_saved_and_loaded(tmp_path):
    model = build()
    network = sec.trace(model)
    small = sec.apply(model, network.cut({find_heads(network): [0, 3]}), X, network=network)
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(build(), tmp_path / "small.safetensors")
    assert loaded.get_layer("second").heads == 2
    np.testing.assert_allclose(loaded.predict(X, verbose=0), small.predict(X, verbose=0), atol=1e-6)
    other = build()
    other.get_layer("second").heads = 5
    with pytest.raises(sec.CutError, match="heads: expected 4"):
        sec.load(other, tmp_path / "small.safetensors")


def test_a_cut_model_is_cut_again():
    model = build()
    small = sec.prune(model, X[:1], sec.Budget(channels=0.75)).model
    smaller = sec.prune(small, X[:1], sec.Budget(channels=0.5)).model
    assert smaller.count_params() < small.count_params() < model.count_params()


def test_calls_are_compared_one_by_one_with_the_lengths_of_the_small_model():
    model = build()
    network = sec.trace(model)
    cut = network.cut({name: [0] for name in count_channels(network)})
    small = sec.apply(model, cut, X, network=network, proof=False)
    compared = TwinComparison.of(network, cut, network.alive(network.removed_by(cut)), X)
    assert compared.call_by_call(small).holds
    small.get_layer("second").out.kernel.assign_add(
        np.ones(small.get_layer("second").out.kernel.shape)
    )
    assert not compared.call_by_call(small).holds
