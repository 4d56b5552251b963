"""Evaluation of a model, summed over batches of different sizes."""

import numpy as np
import pytest

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.judging import judge_batches

LOSSES = [np.array([0.5, 1.5, 1.0]), np.array([4.0])]
HITS = [np.array([True, False, True]), np.array([False])]
BATCHES = [CalibrationBatch(np.zeros((3, 2)), None), CalibrationBatch(np.zeros((1, 2)), None)]


def test_the_share_is_of_all_images_not_the_mean_over_batches():
    answers = iter(zip(LOSSES, HITS, strict=True))
    losses, share = judge_batches(BATCHES, lambda _: next(answers))
    assert losses.tolist() == [0.5, 1.5, 1.0, 4.0]
    assert share == pytest.approx(2 / 4)


def test_batches_without_classes_do_not_count():
    answers = iter([(LOSSES[0], HITS[0]), (LOSSES[1], None)])
    assert judge_batches(BATCHES, lambda _: next(answers))[1] == pytest.approx(2 / 3)
    assert judge_batches(BATCHES[:1], lambda _: (LOSSES[0], None))[1] is None
