"""The independent proof of Keras cuts finds errors that rules and masked twin share."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import ZOO, noisy
from secateurs.channels.cut import Cut, TensorCut
from secateurs.keras.proof.independent import prove_independently

X = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")


def chain(middle=lambda x: x):
    i = keras.Input((6,))
    x = L.Dense(8, activation="tanh", name="a")(i)
    return noisy(keras.Model(i, L.Dense(3, name="head")(middle(x)), name="chain"))


def test_readers_are_zeroed_and_filters_are_not():
    """Compute by hand: the dense model with zeros in rows of its head."""
    model = chain()
    small = sec.apply(model, sec.trace(model).cut({"a": [1, 5]}), X, proof="independent")
    proof = sec.report_of(small).proof.independent
    kernel, bias = model.get_layer("head").get_weights()
    kernel[[1, 5]] = 0
    model.get_layer("head").set_weights([kernel, bias])
    expected = model.predict(X, verbose=0)
    assert (proof.channels, proof.scale) == (2, pytest.approx(np.abs(expected).max()))
    assert np.abs(small.predict(X, verbose=0) - expected).max() < 1e-6


def wrong_cut(row):
    return Cut(
        {
            "a.kernel": TensorCut((6, 8), {1: (1,)}),
            "a.bias": TensorCut((8,), {0: (1,)}),
            "head.kernel": TensorCut((8, 3), {0: (row,)}),
        }
    )


def test_wrong_reader_rows_are_found():
    model = chain(lambda x: keras.ops.flip(x, axis=-1))
    sizes = sec.trace(chain()).cut({"a": [1]}).sizes
    right = Cut(wrong_cut(6).tensors, sizes=sizes)
    assert prove_independently(model, right, [X]).max_difference < 1e-5
    with pytest.raises(sec.CutError, match=r"^a: expected channels without influence once"):
        prove_independently(model, Cut(wrong_cut(1).tensors, sizes=sizes), [X])


def test_readers_without_weights_are_found():
    """A norm over channels, which a correct rule would report as mixing."""
    # Keras's own norm raises an error about its axis on JAX.
    model = chain(lambda x: x / keras.ops.sqrt(keras.ops.sum(x * x, axis=-1, keepdims=True)))
    cut = Cut(wrong_cut(1).tensors, sizes=sec.trace(chain()).cut({"a": [1]}).sizes)
    with pytest.raises(sec.CutError, match=r"^a: expected channels without influence once"):
        prove_independently(model, cut, [X])


@pytest.mark.parametrize(
    "name", ["depthwise", "einsums", "attention", "recurrent", "moves", "gates"]
)
def test_layers_of_every_layout_hold(name):
    model = noisy(ZOO[name]())
    network = sec.trace(model)
    random = np.random.default_rng(0)
    cut = network.cut({g.name: random.permutation(len(g))[: len(g) // 2] for g in network.groups})
    proof = sec.report_of(sec.apply(model, cut, network=network, proof="independent")).proof
    assert proof.independent.channels == cut.removed_channels


@pytest.mark.parametrize("normalize", [False, True])
def test_a_product_of_two_values_is_exact_unless_it_takes_their_norms(normalize):
    """No weight reads either factor: each reads the other. A norm reads all of its channels."""
    i = keras.Input((6,))
    a, b = L.Dense(8, name="a")(i), L.Dense(8, name="b")(i)
    model = noisy(keras.Model(i, L.Dense(2, name="head")(L.Dot(1, normalize=normalize)([a, b]))))
    network = sec.trace(model)
    small = sec.apply(model, network.cut({"a": [1, 5]}), X, network=network, proof="independent")
    proof = sec.report_of(small).proof
    assert bool(proof.inexact) == normalize
    assert proof.independent.channels == (0 if normalize else 2)


def test_layers_that_do_not_affect_the_outputs_are_named():
    """A normalisation with a far too large variance suppresses everything: nothing is proven."""
    model = chain(L.BatchNormalization(name="norm"))
    gamma, beta, mean, variance = model.get_layer("norm").get_weights()
    model.get_layer("norm").set_weights([gamma, beta, mean, np.full_like(variance, 1e24)])
    small = sec.apply(model, sec.trace(model).cut({"a": [1]}), X, proof="independent")
    assert sec.report_of(small).proof.independent.unheard == ("a",)
    loud = sec.apply(chain(), sec.trace(chain()).cut({"a": [1]}), X, proof="independent")
    assert sec.report_of(loud).proof.independent.unheard == ()


def test_a_layer_with_one_output_reads_beside_a_transposed_convolution():
    i = keras.Input((4, 4, 3))
    x = L.Conv2D(16, 3, padding="same", activation="relu", name="a")(i)
    high = L.Conv2D(2, 1)(L.Conv2DTranspose(8, 2, 2, name="up")(x))
    flag = L.Dense(1, name="flag")(L.GlobalMaxPooling2D()(x))
    model = noisy(keras.Model(i, [high, flag]))
    images = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype("float32")
    gone = [0, 3, 9]
    small = sec.apply(model, sec.trace(model).cut({"a": gone}), images, proof="independent")
    for name, at in (("up", (slice(None), slice(None), slice(None), gone)), ("flag", (gone,))):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[at] = 0
        model.get_layer(name).set_weights([kernel, bias])
    for mine, theirs in zip(small(images), model(images), strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs), atol=1e-5
        )
