"""The lockstep walk past removed blocks."""

import pytest
import torch

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.channels.blocks import BlockCut
from secateurs.pytorch.reconstruction.past_blocks import around_small, find_detour
from secateurs.pytorch.reconstruction.program import Pieces
from secateurs.pytorch.trace_model import source_of
from support.residual_networks import divergence, images, sure


@pytest.fixture(scope="module")
def model():
    return sure()


IMAGES = images()


def test_sums_compensate_for_a_removed_branch(model):
    fresh = torch.rand(256, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    plain = sec.prune(model, IMAGES[:1], depth=["blocks.2"], calibration=IMAGES, repair=False)
    repaired = sec.prune(model, IMAGES[:1], depth=["blocks.2"], calibration=IMAGES)
    before, after = (divergence(one.model, model, fresh) for one in (plain, repaired))
    assert after < 0.3 * before
    names = {layer.weight for layer in repaired.report.fidelity.layers}
    assert not any(name.startswith("blocks.2.") for name in names)
    assert "blocks.3.conv2.weight" in names


def test_around_the_small_models_tensors_the_dense_one_does_what_the_small_one_does(model):
    """The skip takes the place of each sum; what is inside the branch is not done."""
    network = sec.trace(model, IMAGES[:1])
    blocks = network.cut_of_blocks(["blocks.1", "blocks.2"]).blocks
    small = sec.apply(model, network.cut_of_blocks(["blocks.1", "blocks.2"]), IMAGES[:1]).eval()
    operations = source_of(network).operations
    detour = find_detour(model, IMAGES[:2], operations, blocks)
    batch = CalibrationBatch(IMAGES[:4].numpy(), None)
    piece = Pieces(around_small(model, small, blocks), operations, batch).piece(batch)
    with torch.no_grad():
        for step in piece.steps:
            detour.take(piece, step)
        (found,) = [piece.find(source) for source in [piece.output]]
        torch.testing.assert_close(found, small(IMAGES[:4]))
    layers = {operations[number].layer for number in detour.left_out}
    assert layers
    assert all(layer.startswith(("blocks.1", "blocks.2")) for layer in layers)
    assert not any("skip" in layer for layer in layers)


def test_a_block_that_is_not_in_the_pass_is_refused(model):
    operations = source_of(sec.trace(model, IMAGES[:1])).operations
    with pytest.raises(sec.ModelError, match="the block nowhere to be found on the calibration"):
        find_detour(model, IMAGES[:2], operations, [BlockCut("nowhere")])
