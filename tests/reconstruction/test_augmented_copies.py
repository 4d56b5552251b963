"""Augmented copies of calibration images, which weights are fitted to as well."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError
from secateurs.reconstruction.augmented_copies import AugmentedCopies

X = np.arange(70, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)


def add_a_tenth(images, random):
    """Each image plus a tenth, in double precision, as NumPy makes it."""
    return images + np.float64(0.1)


def test_copies_follow_the_images_each_as_often_as_asked():
    found = AugmentedCopies(3, add_a_tenth).add(CalibrationBatch(X, np.arange(70)), (0,))
    assert found.labels is None
    assert found.images.dtype == np.float32
    assert found.images.shape == (280, 2)
    np.testing.assert_array_equal(found.images[:70], X)
    for copy in np.split(found.images[70:], 3):
        np.testing.assert_allclose(np.sort(copy, axis=0), X + 0.1, rtol=1e-6)


def test_each_copy_is_drawn_anew_from_the_seed():
    def add_noise(images, random):
        return images + random.normal(size=images.shape)

    once, again, other = (
        AugmentedCopies(2, add_noise).add(CalibrationBatch(X, None), seed).images
        for seed in ((0, 0), (0, 0), (0, 1))
    )
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once[70:], other[70:])
    first, second = (np.sort(part[:, 0] % 1) for part in np.split(once[70:], 2))
    assert not np.array_equal(first, second)


def test_images_in_a_dictionary_stay_in_one():
    def double_one(images, random):
        return {"b": images["b"] * 2, "a": images["a"]}

    given = CalibrationBatch({"a": X, "b": X.astype(np.int64)}, None)
    found = AugmentedCopies(1, double_one).add(given, (0,)).images
    assert {name: (array.shape, array.dtype.kind) for name, array in found.items()} == {
        "a": ((140, 2), "f"),
        "b": ((140, 2), "i"),
    }
    np.testing.assert_array_equal(found["b"][70:], 2 * found["a"][70:])


def test_flips_need_to_know_where_the_channels_are():
    images = np.random.default_rng(0).normal(size=(8, 3, 4, 5)).astype(np.float32)
    flip = AugmentedCopies(1, sec.Augmentation(flip=True))
    first = flip.add(CalibrationBatch(images, None), (0,)).images
    last = flip.add(
        CalibrationBatch(images.transpose(0, 2, 3, 1), None), (0,), channels_last=True
    ).images
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), first)
    flipped = [any(np.array_equal(one, other) for other in images[..., ::-1]) for one in first[8:]]
    assert 0 < sum(flipped) < 8


@pytest.fixture
def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(60, 80), nn.Tanh(), nn.Linear(80, 5))


def draw(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 60)).astype(np.float32)


def shuffle_values(images, random):
    """Other images of the same kind: every value from another image."""
    return np.stack([random.permutation(column) for column in images.T], axis=1)


def error_of(small, dense):
    x = torch.from_numpy(draw(2000, 9))
    with torch.no_grad():
        return float((small(x) - dense(x)).square().mean())


def test_few_images_with_copies_are_fitted_as_well_as_many(dense):
    def cut_with(images, **options):
        budget = sec.Budget(channels=0.8)
        return error_of(
            sec.prune(dense, images[:1], budget, calibration=images, **options).model, dense
        )

    few, many = cut_with(draw(100, 1)), cut_with(draw(1000, 1))
    copied = cut_with(draw(100, 1), augmentation=shuffle_values, copies=9)
    assert many < copied < few - 0.5 * (few - many)


def test_all_calls_take_copies(dense):
    images, options = draw(100, 1), {"augmentation": shuffle_values, "copies": 9}
    small = sec.delete_channels(dense, {"0": range(40)}, images[:1])
    repaired, plain = sec.repair(small, dense, images, **options), sec.repair(small, dense, images)
    assert error_of(repaired, dense) < 0.8 * error_of(plain, dense)
    found = sec.frontier(dense, images[:1], calibration=images, shares=(0.5,), **options)
    assert sec.report_of(found.model("macs=0.5")).fidelity.images == 100
    plain = sec.frontier(dense, images[:1], calibration=images, shares=(0.5,))
    (mine, other) = (error_of(one.model("macs=0.5"), dense) for one in (found, plain))
    assert mine < other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 2}, r"copies=2: expected augmentation=.*received none"),
        ({"copies": 2, "augmentation": sec.Augmentation()}, "copies=2: expected augmentation="),
        (
            {"copies": 101, "augmentation": shuffle_values},
            "copies: expected at most 100.*received 101",
        ),
        (
            {"copies": 1, "augmentation": sec.Augmentation(flip=True)},
            r"copies: expected images of shape \(N, C, H, W\).*received \(70, 60\)",
        ),
        (
            {"copies": 1, "augmentation": lambda images, random: images[:, :3]},
            r"copies: expected augmentation= to return images of shape \(32, 60\).*\(32, 3\)",
        ),
        (
            {"copies": 1, "augmentation": lambda images, random: (images, images)},
            r"to return images of shape \(32, 60\).*received \(32, 60\), \(32, 60\)",
        ),
        (
            {"copies": 1, "augmentation": shuffle_values, "calibration": None},
            "copies: .*received none",
        ),
    ],
)
def test_what_cannot_be_copied_is_refused(dense, options, message):
    options = {"calibration": draw(100, 1), **options}
    with pytest.raises(DataError, match=message):
        sec.prune(dense, draw(1, 1), sec.Budget(macs=0.5), **options)
