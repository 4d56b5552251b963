"""The proof of a cut: what it compares, which errors it finds, and its messages."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
from contract.zoo import noisy
from secateurs.keras.internals import operation_classes
from secateurs.keras.proof import comparison as proofs
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.tracing.rules.pointwise import apply_pointwise
from secateurs.keras.tracing.rules.registry import RULES


def build_flip(head_weights=True):
    i = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="a")(i)
    x = L.Dense(5, activation="relu", name="b")(ops.flip(x, axis=-1))
    model = noisy(keras.Model(i, L.Dense(2, name="head")(x)))
    if not head_weights:
        head = model.get_layer("head")
        head.set_weights([np.zeros_like(w) for w in head.get_weights()])
    return model


@pytest.fixture
def lying(monkeypatch):
    monkeypatch.setitem(RULES, operation_classes("Flip")[0], apply_pointwise)


def test_a_wrong_rule_is_found_and_the_layer_named(lying):
    model = build_flip()
    cut = sec.trace(model).cut({"a": [0]})
    with pytest.raises(sec.CutError, match="inside is in flip"):
        sec.apply(model, cut)


def test_a_method_of_a_single_layer_is_not_rebuilt_and_that_is_found():
    i = keras.Input((9, 9, 3))
    x = L.Conv2D(6, 3, activation="relu", name="a")(L.Conv2D(6, 3, name="first")(i))
    model = noisy(keras.Model(i, L.Dense(2)(L.GlobalAveragePooling2D()(x))))
    layer = model.get_layer("a")
    call = layer.call
    layer.call = lambda inputs: 2 * call(inputs)
    with pytest.raises(sec.CutError, match="inside is in a "):
        sec.apply(model, sec.trace(model).cut({"a": [0]}))


def test_a_head_of_zeros_hides_no_error(lying):
    model = build_flip(head_weights=False)
    cut = sec.trace(model).cut({"a": [0]})
    with pytest.raises(sec.CutError, match="inside is in flip"):
        sec.apply(model, cut)


@pytest.mark.parametrize("unit", range(6))
def test_every_value_of_a_small_result_is_compared(unit):
    i = keras.Input((3,))
    x = L.Dense(7, activation="sigmoid", name="a")(i)
    model = keras.Model(i, L.Dense(2, kernel_initializer="zeros", name="head")(x))
    network = sec.trace(model)
    cut = network.cut({"a": [6]})
    small = cut_copy(model, cut)
    bias = small.get_layer("a").bias
    bias.assign(0.5 * np.eye(6)[unit])
    alive = network.alive(network.removed_by(cut))
    with pytest.raises(sec.CutError, match="inside is in a "):
        proofs.prove(network, small, cut, alive, np.ones((1, 3), np.float32))


def test_biases_after_a_relu_are_proven():
    """Zeroing the filters that produce a channel would be wrong: relu(bn(0)) is not zero."""
    i = keras.Input((6, 6, 3))
    x = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="a")(i)))
    model = noisy(keras.Model(i, L.Conv2D(2, 1, name="head")(x)))
    images = np.random.default_rng(0).standard_normal((2, 6, 6, 3))
    small = sec.delete_channels(model, {"a": [0, 1]})
    assert sec.report_of(small).proof.holds
    weight, bias = model.get_layer("head").get_weights()
    features = keras.Model(model.input, model.layers[-2].output).predict(images, verbose=0)
    by_hand = features[..., 2:] @ weight[0, 0, 2:] + bias
    np.testing.assert_allclose(small.predict(images, verbose=0), by_hand, atol=1e-5)


def test_mixed_channels_are_reported_and_checked_on_the_kept_ones():
    i = keras.Input((6,))
    x = L.LayerNormalization(name="ln")(L.Dense(8, name="a")(i))
    model = noisy(keras.Model(i, L.Dense(2, name="head")(x)))
    proof = sec.report_of(sec.delete_channels(model, {"a": [0, 1]})).proof
    assert proof.holds
    assert proof.inexact == ("LayerNormalization over channels in ln",)


def test_padding_masks_go_through_what_mixes_channels():
    i = keras.Input((None,), dtype="int32")
    x = L.LayerNormalization(name="ln")(L.Embedding(9, 8, mask_zero=True, name="e")(i))
    model = noisy(keras.Model(i, L.Dense(2, name="head")(L.LSTM(4, name="l")(x))))
    ids = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
    network = sec.trace(model, ids)
    small = sec.apply(model, network.cut({"e": [0, 5]}), ids, network=network)
    assert sec.report_of(small).proof.holds
    # Padding is still ignored: a longer text with the same words gives the same output.
    longer = np.pad(ids[:1], [(0, 0), (0, 4)])
    answers = [small.predict(text, verbose=0) for text in (ids[:1], longer)]
    np.testing.assert_allclose(*answers, atol=1e-6)
    assert not np.allclose(answers[0], small.predict(np.array([[1, 2, 3, 8, 8, 8]]), verbose=0))


def test_weights_that_hold_nan_prove_nothing():
    model = build_flip()
    kernel, bias = model.get_layer("b").get_weights()
    kernel[0, 0] = np.nan
    model.get_layer("b").set_weights([kernel, bias])
    cut = sec.trace(model).cut({"a": [0]})
    with pytest.raises(sec.CutError, match=r"not finite.*b\.kernel holds NaN"):
        sec.apply(model, cut)


def test_accumulated_rounding_is_distinguished_from_an_error(monkeypatch):
    """The outputs differ by more than the tolerance, but no single call does: the proof holds."""
    model = build_flip()
    network = sec.trace(model)
    cut = network.cut({"a": [0], "b": [1]})
    asked = []
    whole = proofs.TwinComparison.whole

    def far_off(self, small):
        proof = whole(self, small)
        return type(proof)(1e9, proof.scale, proof.tolerance, proof.inside)

    def note_call(self, small):
        asked.append(True)
        return call_by_call(self, small)

    call_by_call = proofs.TwinComparison.call_by_call
    monkeypatch.setattr(proofs.TwinComparison, "whole", far_off)
    monkeypatch.setattr(proofs.TwinComparison, "call_by_call", note_call)
    small = sec.apply(model, cut, network=network)
    assert asked
    assert sec.report_of(small).proof.holds
    assert sec.report_of(small).proof.max_difference < 1e-4


def test_call_by_call_finds_a_wrong_rule_too(lying):
    model = build_flip()
    network = sec.trace(model)
    cut = network.cut({"a": [0]})
    small = sec.apply(model, cut, network=network, proof=False)
    alive = network.alive(network.removed_by(cut))
    comparison = proofs.TwinComparison.of(network, cut, alive, None)
    proof = comparison.call_by_call(small)
    assert not proof.holds
    assert proof.layer.startswith("flip")


@pytest.mark.parametrize("kind", ["operations", "norms", "nested_model", "masks"])
def test_call_by_call_agrees_for_a_correct_cut(kind):
    from contract.zoo import ZOO

    model = noisy(ZOO[kind]())
    network = sec.trace(model)
    cut = network.cut({group.name: [0] for group in network.groups if len(group) > 1})
    small = sec.apply(model, cut, network=network, proof=False)
    alive = network.alive(network.removed_by(cut))
    compared = proofs.TwinComparison.of(network, cut, alive, None)
    assert compared.call_by_call(small).holds
    # A single weight that is off by its own magnitude is found.
    values = small.get_weights()
    largest = max(range(len(values)), key=lambda place: values[place].size)
    values[largest] = values[largest] * 2 + 1
    small.set_weights(values)
    assert not compared.call_by_call(small).holds


def test_the_proof_can_be_skipped():
    model = build_flip()
    assert (
        sec.report_of(sec.apply(model, sec.trace(model).cut({"a": [0]}), proof=False)).proof is None
    )


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has no doubles unless it is told to at its start"
)
def test_a_mean_in_double_precision_is_proven():
    """On PyTorch, Keras computes means in float32 even for float64."""
    parts = [L.Conv2D(8, 3, name="a"), L.GlobalAveragePooling2D(), L.Dense(3)]
    for part in parts:
        part.dtype_policy = "float64"
    model = keras.Sequential([keras.Input((8, 8, 3), dtype="float64"), *parts])
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3))
    small = sec.delete_channels(model, {"a": [1, 5]}, images)
    assert sec.report_of(small).proof.holds
    (kernel, bias), (weight, head) = model.layers[0].get_weights(), model.layers[-1].get_weights()
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    means = np.einsum("nxychw,hwck->nk", patches, kernel) / 36 + bias
    kept = [0, 2, 3, 4, 6, 7]
    by_hand = means[:, kept] @ weight[kept] + head
    np.testing.assert_allclose(small.predict(images, verbose=0), by_hand, atol=1e-5)


def test_a_single_wrong_channel_is_found_among_hundreds():
    """Where the head is zero, so that no later value differs."""
    i = keras.Input((6, 6, 3))
    x = L.BatchNormalization(name="norm")(L.Conv2D(600, 3, name="a")(i))
    model = noisy(keras.Model(i, L.Conv2D(4, 1, name="head")(x)))
    head = model.get_layer("head")
    head.kernel.assign(np.zeros(head.kernel.shape))
    images = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype("float32")
    network = sec.trace(model, images)
    cut = network.cut({"a": range(0, 600, 2)})
    small, alive = cut_copy(model, cut), network.alive(network.removed_by(cut))
    assert proofs.prove(network, small, cut, alive, images).holds
    gamma = small.get_layer("norm").gamma
    right = np.array(keras.ops.convert_to_numpy(gamma))
    for channel in range(0, 300, 23):
        wrong = right.copy()
        wrong[channel] = right[channel - 1]
        gamma.assign(wrong)
        with pytest.raises(sec.CutError, match="norm"):
            proofs.prove(network, small, cut, alive, images)
    gamma.assign(right)
    assert proofs.prove(network, small, cut, alive, images).holds
