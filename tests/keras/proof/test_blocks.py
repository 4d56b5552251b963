"""A model without blocks is compared with the dense one with their branches set to zero."""

from dataclasses import replace

import keras
import numpy as np
import pytest

import secateurs as sec
from secateurs.channels.cut import Cut
from secateurs.keras.proof.blocks import prove_blocks, prove_blocks_independently
from secateurs.keras.surgery.rebuilding import cut_copy
from support import keras_residual_networks as networks

X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def without(build=networks.residual, which=1):
    keras.utils.set_random_seed(0)
    model = build()
    block = sec.trace(model, X).blocks[which].cut
    return model, cut_copy(model, Cut(blocks=(block,))), block


def test_it_holds_and_says_how_far():
    model, small, block = without()
    proof = prove_blocks(model, small, [block], [X])
    assert proof.holds
    assert proof.max_difference == 0
    assert proof.scale == pytest.approx(np.abs(small.predict(X, verbose=0)).max(), rel=1e-5)
    second = prove_blocks_independently(model, small, [block], [X])
    assert second.max_difference <= 1e-6 * second.scale
    assert second.scale == pytest.approx(proof.scale, rel=1e-5)


@pytest.mark.parametrize("layer", ["b0_two", "head", "b2_norm"])
def test_any_changed_weight_is_found(layer):
    model, small, block = without()
    weight = small.get_layer(layer).weights[-1]
    weight.assign(weight.value + 0.1)
    with pytest.raises(sec.CutError, match="largest"):
        prove_blocks(model, small, [block], [X])
    with pytest.raises(sec.CutError, match="at zero"):
        prove_blocks_independently(model, small, [block], [X])


def test_the_wrong_operand_is_found():
    model, _, block = without()
    with pytest.raises(sec.CutError, match="b1_sum: expected a block"):
        cut_copy(model, Cut(blocks=(replace(block, place=1 - block.place),)))


def test_a_layer_that_is_not_a_block_is_refused():
    model, small, block = without()
    with pytest.raises(sec.CutError, match="b1_out: expected a block"):
        prove_blocks(model, small, [replace(block, owner="b1_out")], [X])


def test_code_of_layers_is_run_as_a_whole_as_well():
    model, small, block = without(networks.encoders, 0)
    assert prove_blocks(model, small, [block], [X]).holds
    small.get_layer("layer1").call = lambda x, training=None: 2 * x
    with pytest.raises(sec.CutError):
        prove_blocks(model, small, [block], [X])
