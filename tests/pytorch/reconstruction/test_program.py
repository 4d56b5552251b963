"""A forward pass over the images in pieces."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.reconstruction.program import Pieces, play, readers_of
from secateurs.pytorch.trace_model import source_of

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def pieces(model):
    operations = source_of(sec.trace(model, torch.from_numpy(X[:1]))).operations
    return Pieces(model, operations, CalibrationBatch(X, None))


@torch.no_grad()
def test_a_pass_from_the_start_or_from_a_branch_gives_the_models_outputs():
    model = net()
    expected = model(torch.from_numpy(X))
    piece = pieces(model).piece(CalibrationBatch(X, None))
    step = piece.steps[piece.done]
    piece.do(step)
    piece.forget(step)
    for one in (piece.branch(), piece):
        (found,) = play(one)
        assert torch.allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_what_a_step_gives_can_be_changed():
    model = net()
    piece = pieces(model).piece(CalibrationBatch(X, None))
    (found,) = play(piece, lambda step, call: call.run_one() * 0)
    assert not found.any()


def test_images_come_in_pieces_that_cover_them():
    found = list(pieces(net()).sizes(1000))
    assert [one.start for one in found] == [0, *(one.stop for one in found[:-1])]
    assert found[-1].stop == 1000


def test_each_value_knows_who_reads_it():
    readers = readers_of(pieces(net()).steps)
    assert sorted(step.number for steps in readers.values() for step in steps) == [0, 1, 2]
