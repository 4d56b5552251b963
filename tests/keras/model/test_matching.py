"""Unnamed layers are matched by their order, whatever their automatic numbers."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.model.matching import match_names
from secateurs.keras.model.tensors import list_tensors

X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def build_unnamed(width=6, more=0):
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(inputs)))
    for _ in range(2 + more):
        y = L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(x))
        x = x + L.Conv2D(width, 1)(L.ReLU()(y))
    inner = keras.Sequential([keras.Input((width,)), L.Dense(5), L.ReLU(), L.Dense(4)])
    return keras.Model(inputs, L.Dense(2)(inner(L.GlobalAveragePooling2D()(x))))


def names(model):
    return [leaf.name for leaf in list_tensors(model)]


def test_tensors_are_matched_by_position():
    first, second = build_unnamed(), build_unnamed()
    assert names(first) != names(second)
    rename = match_names(second, names(first))
    assert [rename(name) for name in names(first)] == names(second)
    assert rename(first.layers[1].name) == second.layers[1].name
    assert rename("something else") == "something else"


def test_different_models_are_not_matched():
    assert match_names(build_unnamed(), names(build_unnamed(more=1))) is None
    named = keras.Sequential([keras.Input((2,)), L.Dense(3, name="mine")])
    other = keras.Sequential([keras.Input((2,)), L.Dense(3, name="yours")])
    assert match_names(named, names(other)) is None


def test_a_cut_model_is_loaded_into_one_with_other_automatic_names(tmp_path):
    model = build_unnamed()
    small = sec.prune(model, X, amount=0.4).model
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(build_unnamed(), tmp_path / "small.safetensors")
    expected = small.predict(X, verbose=0)
    assert np.array_equal(again.predict(X, verbose=0), expected)
    assert not set(names(again)) & set(names(small))
    cut = sec.report_of(again).cut
    assert sec.apply(unname_like(again), cut, X).count_params() == small.count_params()


def unname_like(cut_model):
    """Return the dense model with the names of the loaded one."""
    dense = build_unnamed()
    for layer, other in zip(dense.layers, cut_model.layers, strict=True):
        layer.name = other.name
    for layer, other in zip(dense.layers[-2].layers, cut_model.layers[-2].layers, strict=True):
        layer.name = other.name
    return dense


def test_a_block_is_found_by_what_its_sum_adds(tmp_path):
    model = build_unnamed()
    network = sec.trace(model, X)
    cut = network.cut_of_blocks([network.blocks[1].name])
    small = sec.apply(model, cut, X, network=network)
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(build_unnamed(), tmp_path / "small.safetensors")
    assert np.array_equal(again.predict(X, verbose=0), small.predict(X, verbose=0))
    assert again.count_params() == small.count_params() < model.count_params()


def test_a_different_model_is_refused(tmp_path):
    sec.save(sec.prune(build_unnamed(), X, amount=0.4).model, tmp_path / "small.safetensors")
    with pytest.raises(sec.SecateursError, match=r"names|tensor"):
        sec.load(build_unnamed(more=1), tmp_path / "small.safetensors")
    with pytest.raises(sec.SecateursError, match="shape"):
        sec.load(build_unnamed(width=8), tmp_path / "small.safetensors")
