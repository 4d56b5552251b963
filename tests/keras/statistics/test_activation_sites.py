"""Sites that read channels and the norms of their readers, counted on small models."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from secateurs.keras.statistics.activation_sites import Listening, places_of, run
from secateurs.keras.trace_model import source_of

X = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")


def net():
    i = keras.Input((5,))
    x = L.Dense(4, "relu", name="a")(i)
    return keras.Model(i, [L.Dense(2, name="one")(x), L.Dense(3, name="two")(x)])


def test_each_consumer_is_a_site_with_the_norm_of_its_weights():
    model = net()
    places, unseen = places_of(sec.trace(model))
    assert [one.layer for one in unseen] == ["a"]  # it reads the input, which has no channels
    found = {place.layer: place.reader_norm for place in places if len(place.units) == 4}
    assert found.keys() == {"one", "two"}
    for name, norm in found.items():
        kernel = model.get_layer(name).get_weights()[0]
        assert np.allclose(norm, np.square(kernel).sum(axis=1), rtol=1e-5)


def test_the_value_projection_inside_attention_is_intercepted():
    i = keras.Input((3, 5))
    network = sec.trace(keras.Model(i, L.MultiHeadAttention(2, 4, name="m")(i, i)))
    places, unseen = places_of(network)
    assert not unseen
    inner = [place.inner.name for place in places if place.inner is not None]
    assert "attention_output" in inner


def test_what_is_read_can_be_changed():
    model = net()
    network = sec.trace(model)
    source = source_of(network)
    places, _ = places_of(network)
    silent = Listening(source.operations, places, lambda _, tensor: tensor * 0.0)
    variables = list(model.variables)
    given = run(model, silent, variables, [one.value for one in variables], [X])
    for name, output in zip(("one", "two"), given, strict=True):
        bias = model.get_layer(name).get_weights()[1]
        assert np.allclose(keras.ops.convert_to_numpy(output), np.tile(bias, (2, 1)), atol=1e-6)
