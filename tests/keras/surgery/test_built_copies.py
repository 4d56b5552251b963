"""Copies of built layers are the layers that rebuilding them from their configurations gives."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.errors import CutError
from secateurs.keras.surgery.built_copies import BuiltCopies


def two_branches():
    keras.utils.set_random_seed(3)
    i = keras.Input((12, 12, 3))
    x = L.Conv2D(8, 3, kernel_regularizer=keras.regularizers.L2(0.1), name="stem")(i)
    for number in range(3):
        y = L.Conv2D(6 + number, 1, use_bias=False, name=f"narrow{number}")(x)
        y = L.BatchNormalization(name=f"norm{number}")(y)
        y = L.ReLU(6.0, name=f"relu{number}")(y)
        y = L.DepthwiseConv2D(3, padding="same", name=f"depthwise{number}")(y)
        y = L.Conv2D(8, 1, kernel_initializer="he_normal", name=f"wide{number}")(y)
        x = L.Add(name=f"sum{number}")([x, y])
    x = L.GlobalAveragePooling2D(name="pool")(x)
    for number in range(2):
        x = L.Dense(10, activation="tanh", name=f"dense{number}")(x)
    return keras.Model(i, L.Dense(3, name="head")(x))


def halves(model):
    network = sec.trace(model)
    return network, sec.plan(network, sec.score(network, "l1"), amount=0.5)


def describe(model):
    """What one can see of a model's layers, but for the values of its weights."""
    return [
        (
            type(layer),
            layer.get_config(),
            layer.built,
            layer.get_build_config(),
            None if layer.input_spec is None else vars(layer.input_spec),
            [(w.path, w.name, tuple(w.shape), w.dtype, w.trainable) for w in layer.weights],
            [(w.regularizer is None, w.constraint is None) for w in layer.weights],
            [id(w) for w in layer.weights] == [id(w) for w in layer.variables],
            len(layer._inbound_nodes),
            [node.arguments.kwargs for node in layer._inbound_nodes],
        )
        for layer in model.layers
    ]


def count_copies(monkeypatch):
    made = []
    original = BuiltCopies.copy

    def copy(self, *arguments):
        found = original(self, *arguments)
        made.append(found[0])
        return found

    monkeypatch.setattr(BuiltCopies, "copy", copy)
    return made


def rebuilt(monkeypatch, model, cut, network):
    with monkeypatch.context() as patch:
        patch.setattr(BuiltCopies, "copy", lambda *_: (None, None))
        return sec.apply(model, cut, network=network)


def test_a_model_of_copies_is_the_model_that_is_rebuilt(monkeypatch):
    model = two_branches()
    model.get_layer("norm1").trainable = False
    network, cut = halves(model)
    sec.apply(model, cut, network=network)  # now the kinds of layers are known
    made = count_copies(monkeypatch)
    small = sec.apply(model, cut, network=network)
    assert all(copy is not None for copy in made)
    assert len(made) == len(model.layers) - 1  # all but the input
    other = rebuilt(monkeypatch, model, cut, network)
    assert describe(small) == describe(other)
    for mine, theirs in zip(small.get_weights(), other.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    ((mine,), (theirs,)) = (
        [keras.ops.convert_to_numpy(loss) for loss in one.losses] for one in (small, other)
    )
    assert mine == pytest.approx(theirs)


def test_the_first_layer_of_a_kind_is_rebuilt(monkeypatch):
    i = keras.Input((5,))
    x = i
    for number in range(4):
        x = L.LeakyReLU(0.173, name=f"leaky{number}")(L.Dense(6, name=f"dense{number}")(x))
    model = keras.Model(i, L.Dense(2, name="head")(x))
    network, cut = halves(model)
    made = count_copies(monkeypatch)
    sec.apply(model, cut, network=network)
    leaky = [copy is not None for copy in made[1::2]]
    assert leaky == [False, True, True, True]


def test_a_copy_shares_nothing_that_changes():
    model = two_branches()
    network, cut = halves(model)
    sec.apply(model, cut, network=network)
    before = model.get_weights()
    small = sec.apply(model, cut, network=network)
    mine = {id(variable) for variable in small.variables}
    assert mine.isdisjoint(id(variable) for variable in model.variables)
    assert (
        small.get_layer("stem").kernel_regularizer is not model.get_layer("stem").kernel_regularizer
    )
    stem = small.get_layer("stem")
    assert stem.kernel.regularizer is stem.kernel_regularizer
    small.compile(keras.optimizers.SGD(0.5), "mse")
    random = np.random.default_rng(0)
    x, y = random.random((4, 12, 12, 3), "float32"), random.random((4, 3), "float32")
    was = small.get_weights()
    small.fit(x, y, epochs=1, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(was, small.get_weights(), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_copied_variable_shares_no_container_with_the_models():
    model = two_branches()
    network, cut = halves(model)
    for _ in range(2):
        small = sec.apply(model, cut, network=network)
    for mine, theirs in zip(small.variables, model.variables, strict=True):
        held, other = vars(mine), vars(theirs)
        assert list(held) == list(other)
        shared = [
            name
            for name, value in held.items()
            if isinstance(value, (list, dict, set)) and value is other[name]
        ]
        assert shared == []  # TensorFlow keeps five: what a variable depends on


def test_a_model_of_copies_is_saved_and_loaded(tmp_path):
    model = two_branches()
    network, cut = halves(model)
    for _ in range(2):
        small = sec.apply(model, cut, network=network)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    x = np.random.default_rng(0).random((2, 12, 12, 3), "float32")
    assert np.allclose(small.predict(x, verbose=0), again.predict(x, verbose=0), atol=1e-6)
    network, cut = halves(again)
    for _ in range(2):
        smaller = sec.apply(again, cut, network=network)
    assert smaller.get_layer("stem").filters == 2


def test_a_layer_that_holds_more_is_rebuilt(monkeypatch):
    model = two_branches()
    network, cut = halves(model)
    sec.apply(model, cut, network=network)
    model.get_layer("wide1").note = object()
    made = count_copies(monkeypatch)
    small = sec.apply(model, cut, network=network)
    copied = {copy.name for copy in made if copy is not None}
    assert "wide0" in copied
    assert "wide1" not in copied
    assert not hasattr(small.get_layer("wide1"), "note")


def test_a_layer_that_computes_attributes_from_its_size_is_rebuilt(monkeypatch):
    """As another version of Keras may: a copy would have the dense model's."""
    plain = L.Dense.__init__

    def initialise(self, units, **options):
        plain(self, units, **options)
        self.bits = 32 * units

    monkeypatch.setattr(L.Dense, "__init__", initialise)
    model = two_branches()
    network, cut = halves(model)
    for _ in range(2):  # the first of a kind is rebuilt anyway
        small = sec.apply(model, cut, network=network)
    dense = [small.get_layer(f"dense{number}") for number in range(2)]
    assert [(layer.units, layer.bits) for layer in dense] == [(4, 128), (4, 128)]


def test_a_cut_whose_size_is_not_that_of_its_tensor_is_refused():
    model = two_branches()
    network, cut = halves(model)
    sec.apply(model, cut, network=network)
    sizes = tuple(
        replace(size, after=size.after + 1) if size.owner == "narrow1" else size
        for size in cut.sizes
    )
    with pytest.raises(CutError, match="narrow1"):
        sec.apply(model, replace(cut, sizes=sizes), network=network, proof=False)
