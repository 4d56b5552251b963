"""Replacement of removed blocks, and cuts of blocks that are refused."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.channels.blocks import BlockCut
from secateurs.keras.surgery.bypass import Bypass
from secateurs.keras.surgery.rebuilding import cut_copy
from support import keras_residual_networks as networks

X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def test_a_bypass_returns_one_of_its_inputs():
    x, y = np.array([[-1.0, 2.0]], "float32"), np.zeros((1, 3), "float32")
    assert np.array_equal(keras.ops.convert_to_numpy(Bypass()(x)), x)
    kept = Bypass(1, "relu")
    assert np.array_equal(keras.ops.convert_to_numpy(kept(y, context=x)), np.maximum(x, 0))
    again = Bypass.from_config(kept.get_config())
    assert (again.place, again.after) == (1, "relu")


def test_a_graph_without_its_block_is_a_plain_keras_file(tmp_path):
    model = networks.residual()
    small = sec.delete_channels(model, {"b0_one": [1]}, X)
    network = sec.trace(small, X)
    small = sec.apply(small, network.cut_of_blocks(["b1_sum", "b3_sum"]), X)
    sec.save(small, tmp_path / "small.keras")
    plain = keras.saving.load_model(tmp_path / "small.keras")
    assert not {"b1_one", "b1_norm", "b1_sum", "b3_two"} & {layer.name for layer in plain.layers}
    assert np.array_equal(plain.predict(X, verbose=0), small.predict(X, verbose=0))
    loaded = sec.load(model, tmp_path / "small.keras")
    assert [block.owner for block in sec.report_of(loaded).cut.blocks] == ["b1_sum", "b3_sum"]


def test_a_compiled_and_trained_model_trains_on_without_its_block():
    model = networks.residual()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    target = np.ones((4, 5), "float32")
    model.fit(X, target, epochs=2, verbose=0)
    network = sec.trace(model, X)
    small = sec.apply(model, network.cut_of_blocks(["b2_sum"]), X, network=network)
    before = small.evaluate(X, target, verbose=0)
    assert int(small.optimizer.iterations.value) == int(model.optimizer.iterations.value) == 2
    small.fit(X, target, epochs=8, verbose=0)
    assert small.evaluate(X, target, verbose=0) < before


def test_a_layer_of_layers_is_saved_with_its_cut_alone(tmp_path):
    model = networks.build_stack()
    network = sec.trace(model, X)
    small = sec.apply(model, network.cut_of_blocks(["stack.unit1"]), X, network=network)
    with pytest.raises(sec.CheckpointError, match="safetensors"):
        sec.save(small, tmp_path / "small.keras")
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(networks.build_stack(), tmp_path / "small.safetensors")
    assert np.array_equal(loaded.predict(X, verbose=0), small.predict(X, verbose=0))
    further = sec.prune(loaded, X, amount=0.3)
    assert sec.report_of(further.model).proof.holds
    assert sec.report_of(further.model).cut.blocks == sec.report_of(small).cut.blocks


def test_a_block_in_a_sequential_model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 1, name="stem"),
            networks.Rectified(name="one"),
            networks.Rectified(name="two"),
            L.GlobalAveragePooling2D(),
        ]
    )
    small = sec.prune(model, X, depth=["one"]).model
    assert isinstance(small, keras.Sequential)
    x = np.maximum(keras.ops.convert_to_numpy(model.layers[0](X)), 0)
    expected = keras.ops.convert_to_numpy(model.layers[2](x)).mean(axis=(1, 2))
    assert np.allclose(small.predict(X, verbose=0), expected, atol=1e-5)


def test_cuts_that_match_no_block_are_refused():
    model = networks.residual()
    block = sec.trace(model, X).blocks[0].cut
    for wrong in (
        BlockCut("nothing"),
        replace(block, layers=("b0_one", "b9_one")),
        replace(block, after="exec"),
        replace(block, shortens=True),
        replace(block, gives=2),
    ):
        with pytest.raises(sec.CutError, match=f"{wrong.owner}: expected"):
            cut_copy(model, sec.Cut(blocks=(wrong,)))
