"""Padding of texts is excluded from the sums and from repair."""

import keras
import numpy as np
import pytest

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.reconstruction import dense_sums
from secateurs.reconstruction import contraction_sums

LENGTHS = np.array([3, 7, 5, 8, 2, 6, 8, 4] * 8)
PRESENT = np.arange(8) < LENGTHS[:, None]


def model(taps=1):
    keras.utils.set_random_seed(0)
    ids = keras.Input((8,), dtype="int32", name="token_ids")
    mask = keras.Input((8,), dtype="int32", name="padding_mask")
    hidden = keras.layers.Embedding(50, 12, name="embed")(ids)
    hidden = keras.layers.Dense(16, activation="relu", name="first")(hidden)
    second = keras.layers.Dense(12, name="second")
    if taps > 1:
        second = keras.layers.Conv1D(12, taps, padding="same", name="second")
    hidden = second(hidden)
    marks = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    mean = keras.ops.sum(hidden * marks, 1) / keras.ops.sum(marks, 1)
    return keras.Model(
        {"token_ids": ids, "padding_mask": mask}, keras.layers.Dense(4, name="head")(mean)
    )


def texts(filling):
    words = np.random.default_rng(0).integers(0, 40, PRESENT.shape)
    ids = np.where(PRESENT, words, filling).astype(np.int32)
    return {"token_ids": ids, "padding_mask": PRESENT.astype(np.int32)}


def first(data):
    return {name: values[:2] for name, values in data.items()}


# Patches; patches of one value for each channel; mixed channels.
@pytest.mark.parametrize(("widest", "taps"), [(contraction_sums.MOST_INPUTS, 1), (8, 1), (8, 3)])
def test_sums_of_a_padded_text_leave_the_padding_out(widest, taps, monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", widest)
    data, dense = texts(49), model(taps)
    network = sec.trace(dense, first(data))
    found = dense_sums.contractions_of(network, CalibrationBatch(data, None), "relative", 0)
    reader = next(one for one in found if one.weight.startswith("second"))
    hidden = dense.get_layer("first")(dense.get_layer("embed")(data["token_ids"]))
    words = keras.ops.convert_to_numpy(hidden)[PRESENT].astype(np.float64)
    np.testing.assert_allclose(reader.moments.mean_u[0], words.mean(0), atol=1e-5)
    assert reader.moments.rows == PRESENT.sum()
    assert reader.mixes == (taps == 3)


def test_values_in_the_padding_change_no_repaired_weight():
    made = []
    for filling in (49, 41):
        data = texts(filling)
        pruned = sec.prune(model(), first(data), sec.Budget(params=0.8), calibration=data, seed=0)
        made.append({w.path: keras.ops.convert_to_numpy(w) for w in pruned.model.weights})
    assert made[0].keys() == made[1].keys()
    for path, values in made[0].items():
        if "embed" not in path:
            np.testing.assert_allclose(values, made[1][path], atol=1e-5)
