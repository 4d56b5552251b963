"""Repair after a block was removed: later layers compensate, however the block was written."""

import keras
import numpy as np
import pytest

import secateurs as sec
from secateurs.errors import ModelError
from secateurs.keras.reconstruction.past_blocks import find_detour
from secateurs.keras.reconstruction.program import Program
from support import keras_residual_networks as networks

X = np.random.default_rng(0).normal(size=(96, 8, 8, 3)).astype("float32")


def answers(model):
    return np.asarray(keras.ops.convert_to_numpy(model(X, training=False)))


@pytest.mark.parametrize(
    "build",
    [networks.residual, networks.transformer, networks.encoders, networks.build_stack],
    ids=lambda build: build.__name__,
)
def test_later_layers_compensate_for_a_removed_block(build):
    keras.utils.set_random_seed(3)
    model = build()
    before = [np.array(w) for w in model.get_weights()]
    found = {
        repair: sec.prune(model, X[:2], depth=1, calibration=X, repair=repair).model
        for repair in (False, True)
    }
    off = {repair: np.abs(answers(one) - answers(model)).mean() for repair, one in found.items()}
    assert off[True] < 0.7 * off[False]
    assert all(map(np.array_equal, before, model.get_weights()))
    assert sec.report_of(found[True]).cut == sec.report_of(found[False]).cut


def test_steps_of_a_branch_are_left_out_and_its_sum_is_its_skip():
    model = networks.residual()
    block = sec.trace(model, X[:2]).blocks[0].cut
    program = Program.of(model, [(2, 8, 8, 3)])
    detour = find_detour(model, X[:2], [block], program)
    left = [step.part.name for step in program.steps if not detour.leaves(step)]
    assert len(left) == 5  # two convolutions, a norm, a ReLU and the sum, which is its skip
    assert len(detour.branches) == 1


def test_a_missing_block_is_reported():
    model = networks.residual()
    other = sec.trace(networks.build_projection(), X[:2]).blocks[0].cut
    with pytest.raises(ModelError, match="repair: expected the block sum"):
        find_detour(model, X[:2], [other], Program.of(model, [(2, 8, 8, 3)]))
