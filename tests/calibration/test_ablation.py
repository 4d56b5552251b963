"""Sums of the effects of removed channels by class, against the same counted per image."""

import numpy as np
import pytest

from secateurs.calibration.ablation import AblationSums
from secateurs.errors import DataError, SecateursError
from support.networks_by_hand import two_layers

LABELS = np.array([0, 1, 1, 2, 0])
RANDOM = np.random.default_rng(0)
LOSS = RANDOM.normal(size=(4, 5))
RIGHT = RANDOM.integers(-1, 2, (4, 5)).astype(float)


def fill_sums(labels=LABELS, classes=3):
    sums = AblationSums(two_layers(), classes)
    for part in (slice(0, 2), slice(2, 5)):
        some = None if labels is None else labels[part]
        dense = np.arange(5.0)[part]
        sums.add_dense(dense, np.array([1, 0, 1, 1, 0])[part], some)
        for channels in ([0, 2], [1, 3]):
            sums.add(
                "first", np.array(channels), LOSS[channels][:, part], RIGHT[channels][:, part], some
            )
    return sums.ablation()


def test_sums_are_those_of_each_class_however_images_come():
    found = fill_sums()
    for number in range(3):
        of_class = number == LABELS
        np.testing.assert_allclose(found.loss["first"][:, number], LOSS[:, of_class].sum(1))
        np.testing.assert_allclose(found.correct["first"][:, number], RIGHT[:, of_class].sum(1))
    assert found.images.tolist() == [2, 2, 1]
    assert found.dense_correct.tolist() == [1, 1, 1]
    assert found.dense_loss == 2.0
    np.testing.assert_allclose(found.estimate["first"], LOSS.mean(1))
    assert found.exact
    assert found.error["first"].tolist() == [0] * 4


def test_without_classes_all_images_are_one():
    found = fill_sums(None, 0)
    np.testing.assert_allclose(found.loss["first"][:, 0], LOSS.sum(1))
    assert found.images.tolist() == [5]
    with pytest.raises(DataError, match="critical: expected labels that are classes"):
        found.accuracy_loss("first")


def test_pairs_that_were_not_run_do_not_count():
    sums = AblationSums(two_layers(), 3)
    where = np.array([[True, False, True, False, False]] * 4)
    sums.add_dense(np.ones(5), None, LABELS)
    sums.add("first", np.arange(4), LOSS, RIGHT, LABELS, where)
    found = sums.ablation()
    assert found.seen["first"].tolist() == [2] * 4
    np.testing.assert_allclose(sums.mean("first"), LOSS[:, [0, 2]].mean(1))
    assert not found.exact
    with pytest.raises(SecateursError, match="expected every channel to be removed on every image"):
        found.accuracy_loss("first")


def test_the_fall_of_accuracy_is_by_class_and_its_ties_are_broken_by_loss():
    found = fill_sums()
    fall = found.accuracy_loss("first")
    np.testing.assert_allclose(fall[:, 0], -RIGHT[:, LABELS == 0].sum(1) / 2)
    damage = found.damage("first")
    for number in range(3):
        for one in range(4):
            for other in range(4):
                if fall[one, number] < fall[other, number]:
                    assert damage[one, number] < damage[other, number]
                elif fall[one, number] == fall[other, number]:
                    losses = found.loss["first"][:, number]
                    assert (damage[one, number] < damage[other, number]) == (
                        losses[one] < losses[other]
                    )
