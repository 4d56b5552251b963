"""Saving and loading models."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.channels.file_size import predict_file_size


def model(width=8):
    i = keras.Input((6,))
    return keras.Model(i, L.Dense(2, name="head")(L.Dense(width, name="d")(i)), name="net")


def test_a_keras_file_holds_the_cut_and_keras_ignores_it(tmp_path):
    small = sec.delete_channels(model(), {"d": [0, 1]})
    sec.save(small, tmp_path / "a.keras")
    alone = keras.saving.load_model(tmp_path / "a.keras")
    ours = sec.load(model(), tmp_path / "a.keras")
    for loaded in (alone, ours):
        assert all(
            np.array_equal(a, b)
            for a, b in zip(loaded.get_weights(), small.get_weights(), strict=True)
        )
    assert sec.report_of(ours).cut == sec.report_of(small).cut
    again = sec.delete_channels(ours, {"d": [0]})
    assert sec.report_of(again).cut.tensors["d.kernel"].removed == {1: (0, 1, 2)}


def test_weights_and_the_cut_that_leads_to_them(tmp_path):
    dense = model()
    network = sec.trace(dense)
    small = sec.apply(dense, network.cut({"d": [3]}), network=network)
    sec.save(small, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size == predict_file_size(
        network, sec.report_of(small).cut
    )
    loaded = sec.load(model(), tmp_path / "a.safetensors")
    assert np.array_equal(loaded.get_weights()[0], small.get_weights()[0])
    assert loaded.get_layer("d").units == 7


def test_half_precision_comes_back_as_it_was(tmp_path):
    i = keras.Input((6,))
    dense = keras.Model(i, L.Dense(2, dtype="bfloat16", name="d")(i))
    sec.save(dense, tmp_path / "a.safetensors")
    loaded = sec.load(dense, tmp_path / "a.safetensors")
    assert loaded.get_layer("d").kernel.dtype == "bfloat16"
    assert np.array_equal(
        np.asarray(loaded.get_weights()[0], "float32"),
        np.asarray(dense.get_weights()[0], "float32"),
    )


@pytest.mark.parametrize("name", ["a.safetensors", "a.keras"])
def test_missing_and_foreign_files_are_refused(tmp_path, name):
    with pytest.raises(sec.CheckpointError, match=name):
        sec.load(model(), tmp_path / name)
    (tmp_path / name).write_bytes(b"neither")
    with pytest.raises(sec.CheckpointError, match=f"{name}: expected"):
        sec.load(model(), tmp_path / name)


def test_a_file_for_other_layers_is_refused(tmp_path):
    sec.save(model(), tmp_path / "a.safetensors")
    i = keras.Input((6,))
    other = keras.Model(i, L.Dense(2, name="out")(i), name="other")
    with pytest.raises(sec.CheckpointError, match=r"missing: out.kernel.*not in the model: d\.b"):
        sec.load(other, tmp_path / "a.safetensors")
    with pytest.raises(sec.CheckpointError, match=r"d\.kernel: expected shape \(6, 9\); received"):
        sec.load(model(9), tmp_path / "a.safetensors")
