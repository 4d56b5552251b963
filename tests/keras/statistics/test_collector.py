"""One pass of calibration data, against Keras's own results and against brute force."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import ZOO, noisy
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import channel_index
from secateurs.criteria.scoring import collect_statistics
from secateurs.keras.ablation.oracle import ablate_channels

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.standard_normal((9, 8, 8, 3)).astype("float32")
LABELS = RANDOM.integers(0, 3, 9)


def cnn(classes=3, **options):
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, activation="relu", name="a")(i)
    x = L.SeparableConv2D(5, 3, activation="relu", name="b")(x)
    x = L.Dense(7, activation="relu", name="c")(L.Flatten()(x))
    return noisy(keras.Model(i, L.Dense(classes, name="head", **options)(x)))


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def test_zeros_are_those_of_the_layer_that_makes_them():
    model = cnn()
    scores = sec.score(sec.trace(model), "apoz", data=IMAGES)
    given = numpy(keras.Model(model.input, model.get_layer("b").output)(IMAGES))
    assert np.allclose(scores["b"], (given != 0).mean((0, 1, 2)), atol=1e-6)
    given = numpy(keras.Model(model.input, model.get_layer("c").output)(IMAGES))
    assert np.allclose(scores["c"], (given != 0).mean(0), atol=1e-6)


def test_removing_a_channel_is_what_the_oracle_says():
    model = cnn(activation="softmax")
    network = sec.trace(model)
    found = ablate_channels(network, (IMAGES, LABELS))
    chance = numpy(model(IMAGES))
    dense = -np.log(chance[np.arange(9), LABELS])
    assert np.isclose(found.dense_loss, dense.mean(), rtol=1e-4)
    for group in network.groups:
        small = sec.apply(model, network.cut({group.name: [1]}), network=network)
        losses = -np.log(numpy(small(IMAGES))[np.arange(9), LABELS])
        assert np.isclose(found.estimate[group.name][1], (losses - dense).mean(), atol=1e-4)


def test_the_gradient_of_a_gate_is_the_slope_of_the_loss():
    """Gate a layer's outputs by hand: scale the layer's own weights."""
    model = cnn(activation="softmax")
    network = sec.trace(model)
    gates = collect_statistics(network, Need.GATES, (IMAGES, LABELS)).gates
    (group,) = [g for g in network.groups if g.name == "c"]

    def loss(factor):
        head = model.get_layer("head")
        before = head.get_weights()
        kernel = before[0].copy()
        kernel[2] *= factor
        head.set_weights([kernel, before[1]])
        losses = -np.log(numpy(model(IMAGES))[np.arange(9), LABELS])
        head.set_weights(before)
        return losses.sum(dtype=np.float64)

    slope = (loss(1.02) - loss(0.98)) / 0.04
    assert np.isclose(gates.signed[group.channels[2]], slope, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("criterion", ["apoz", "taylor", "oracle", "cosine", "obd"])
def test_the_model_is_as_it_was(criterion):
    model = cnn()
    before = [weight.copy() for weight in model.get_weights()]
    layers = [dict(vars(layer)) for layer in model.layers]
    sec.score(sec.trace(model), criterion, data=(IMAGES, LABELS))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert [list(vars(layer)) for layer in model.layers] == [
        list(attributes) for attributes in layers
    ]


@pytest.mark.filterwarnings("ignore:apoz counts values:UserWarning")
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_family_of_layers_is_seen(name):
    """Every group of every model in the zoo is read somewhere: none scores as if it were dead."""
    model = noisy(ZOO[name]())
    network = sec.trace(model)
    random = np.random.default_rng(0)
    arrays = []
    for number, tensor in enumerate(model.inputs):
        shape = (5, *tensor.shape[1:])
        most = network.source.index_ranges.get(number, 2)
        whole = "int" in tensor.dtype
        values = random.integers(0, most, shape) if whole else random.standard_normal(shape)
        arrays.append(values.astype("int32" if whole else "float32"))
    images = arrays[0] if len(arrays) == 1 else [tuple(arrays)]
    if name == "cells":  # the state that a cell passes on from step to step
        with pytest.raises(sec.DataError, match=r"stack.*read only inside stack"):
            collect_statistics(network, Need.ACTIVATIONS, images)
        return
    found = collect_statistics(network, Need.ACTIVATIONS, images)
    for group in network.groups:
        if (name, group.name) == ("operations", "c"):
            continue  # nothing reads what a slice leaves out
        assert any(len(channel_index(network, group, r.units)) for r in found.readings), group.name


def test_ablation_inside_attention_equals_zeroed_weights():
    i = keras.Input((4, 6))
    x = L.MultiHeadAttention(2, 3, name="att")(i, i)
    model = noisy(keras.Model(i, L.Dense(2, name="head")(L.Flatten()(x))))
    network = sec.trace(model)
    images = RANDOM.standard_normal((5, 4, 6)).astype("float32")
    labels = RANDOM.integers(0, 2, 5)
    found = ablate_channels(network, (images, labels))

    def losses(one):
        logs = numpy(keras.ops.log_softmax(one(images), axis=-1))
        return -logs[np.arange(5), labels]

    for group in network.groups:
        small = sec.apply(model, network.cut({group.name: [0]}), network=network)
        change = (losses(small) - losses(model)).mean()
        assert np.isclose(found.estimate[group.name][0], change, atol=1e-4), group.name


def test_a_users_loss_is_used():
    def far(outputs, labels):
        return keras.ops.sum(keras.ops.square(outputs), axis=-1)

    network = sec.trace(cnn())
    assert np.isfinite(sec.score(network, "fisher", data=IMAGES, loss=far)["a"]).all()
    with pytest.raises(sec.DataError, match="one loss for each image"):
        sec.score(network, "fisher", data=IMAGES, loss=lambda y, _: keras.ops.sum(y))


def test_unusable_data_are_refused():
    network = sec.trace(cnn())
    with pytest.raises(sec.DataError, match=r"apoz: expected calibration data"):
        sec.score(network, "apoz")
    with pytest.raises(sec.DataError, match=r"labels from 0 to 2, the model's classes; received 9"):
        sec.score(network, "taylor", data=(IMAGES, LABELS + 9 - LABELS.max()))
    with pytest.raises(sec.DataError, match=r"images of shape \(N, 8, 8, 3\)"):
        sec.score(network, "apoz", data=IMAGES[..., :2])
