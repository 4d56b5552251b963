"""Batches: shuffled by the seed, whole or sharded, with reproducible augmentation."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from secateurs.errors import DataError
from secateurs.training.any_feed import AnyFeed
from secateurs.training.feed import (
    ArrayFeed,
    ArrayPair,
    Augmentation,
    Batch,
    FirstBatches,
    LoaderFeed,
    Shard,
    as_array,
    as_feed,
    augment,
    check_labels,
    consecutive,
    is_labelled_images,
    mix,
)

IMAGES = np.arange(10 * 1 * 4 * 4, dtype=np.float32).reshape(10, 1, 4, 4)
LABELS = np.arange(10) % 2
PAIR = ArrayPair(IMAGES, LABELS)


def rows(batch: Batch):
    """Which images they are."""
    return (batch.images[:, 0, 0, 0] / 16).astype(int).tolist()


@pytest.mark.parametrize("make", [
    lambda: ArrayFeed(PAIR, 2, seed=1, augmentation=Augmentation(flip=True, shift=1)),
    lambda: LoaderFeed([(IMAGES[:2], LABELS[:2])]),
    lambda: AnyFeed((IMAGES[:2], LABELS[:2]), 2),
])  # fmt: skip
def test_each_process_trains_on_a_batch_of_fewer_images_than_there_are_processes(make):
    """The mean over all processes' images is the batch's own; in evaluation each counts once."""
    alone = next(iter(make().shuffle(0, 0, Shard())))
    numbers = [np.asarray(split_images(alone)).mean((1, 2, 3))]
    parts = [next(iter(make().shuffle(0, 0, Shard(index, 3)))) for index in range(3)]
    assert [part.whole for part in parts] == [6, 6, 6]
    sums = sum(np.asarray(split_images(part)).mean((1, 2, 3)).sum() / part.whole for part in parts)
    assert sums == pytest.approx(numbers[0].mean())
    judged = [next(iter(make().in_order(Shard(index, 3)))) for index in range(3)]
    assert sum(len(split_images(part)) for part in judged) == 2


def split_images(batch: Batch):
    """The images of a batch of any feed."""
    return batch.images[0] if isinstance(batch.images, tuple) else batch.images


def test_an_epoch_sees_every_image_that_fills_a_batch_once():
    feed = ArrayFeed(PAIR, 3, seed=1)
    assert (len(feed), feed.whole_length) == (3, 4)
    seen = [row for batch in feed.shuffle(0, 0, Shard()) for row in rows(batch)]
    assert len(seen) == len(set(seen)) == 9
    again = [
        row for batch in ArrayFeed(PAIR, 3, seed=1).shuffle(0, 0, Shard()) for row in rows(batch)
    ]
    assert again == seen
    other = [row for batch in feed.shuffle(1, 0, Shard()) for row in rows(batch)]
    assert other != seen
    in_order = [row for batch in feed.in_order() for row in rows(batch)]
    assert in_order == list(range(10))


def test_shares_of_several_processes_make_the_whole_batch():
    feed = ArrayFeed(PAIR, 5, seed=2, augmentation=Augmentation(flip=True, shift=1))
    whole = list(feed.shuffle(0, 0, Shard()))
    parts = [list(feed.shuffle(0, 0, Shard(index, 3))) for index in range(3)]
    for number, batch in enumerate(whole):
        images = np.concatenate([part[number].images for part in parts])
        assert np.array_equal(images, batch.images)
        assert {part[number].whole for part in parts} == {5}
    assert [Shard(index, 3).slice(5) for index in range(3)] == [
        slice(0, 1),
        slice(1, 3),
        slice(3, 5),
    ]


def test_training_goes_on_over_the_end_of_an_epoch():
    feed = ArrayFeed(PAIR, 4, seed=0)
    found = [rows(batch) for batch in consecutive(feed, 1, 4)]
    epochs = [[rows(batch) for batch in feed.shuffle(epoch, 0, Shard())] for epoch in range(3)]
    assert found == [epochs[0][1], *epochs[1], epochs[2][0]]


def test_changes_are_a_flip_or_a_shift_with_zeros_behind():
    image = IMAGES[:1] + 1
    moved = {
        tuple(augment(image, Augmentation(shift=1), np.random.default_rng(seed)).ravel())
        for seed in range(60)
    }
    padded = np.pad(image[0, 0], 1)
    expected = {
        tuple(padded[top : top + 4, left : left + 4].ravel())
        for top in range(3)
        for left in range(3)
    }
    assert moved == expected
    flipped = augment(IMAGES, Augmentation(flip=True), np.random.default_rng(0))
    same = [np.array_equal(a, b) for a, b in zip(flipped, IMAGES, strict=True)]
    mirrored = [np.array_equal(a, b[..., ::-1]) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(one or other for one, other in zip(same, mirrored, strict=True))
    assert 0 < sum(same) < 10
    assert [
        bool(Augmentation(*values)) for values in ((), (True,), (False, 1), (False, 0, 0.5))
    ] == [
        False,
        True,
        True,
        True,
    ]


def test_mixed_images_lie_between_two_or_have_a_patch_of_another():
    assert mix(IMAGES, Augmentation(), np.random.default_rng(0)) is IMAGES
    for seed in range(8):
        mixed = mix(IMAGES, Augmentation(mix=1.0), np.random.default_rng(seed))
        steps = mixed - IMAGES  # every other image is a constant further on
        for step in steps:
            levels = set(np.round(np.unique(step), 3).tolist())
            assert len(levels) == 1 or (len(levels) == 2 and 0.0 in levels)


def test_a_loader_is_looked_at_once_and_gone_through_again():
    batches = [(IMAGES[:4], LABELS[:4]), (torch.from_numpy(IMAGES[4:]), LABELS[4:])]
    feed = LoaderFeed(batches, "train")
    assert len(feed) == feed.whole_length == 2
    assert [rows(batch) for batch in feed.shuffle(0, 1, Shard())] == [[4, 5, 6, 7, 8, 9]]
    halves = [rows(batch) for batch in feed.in_order(Shard(1, 2))]
    assert halves == [[2, 3], [7, 8, 9]]
    with pytest.raises(DataError, match=r"train: .*received a generator that is used up"):
        LoaderFeed((batch for batch in batches), "train")


def test_a_loader_draws_by_the_epoch_and_the_batch():
    seen = []

    def note(epoch, number):
        seen.append((epoch, number))
        return nullcontext()

    feed = LoaderFeed([(IMAGES, LABELS), (IMAGES, LABELS)], "train", note)
    seen.clear()
    list(feed.shuffle(5, 0, Shard()))
    assert set(seen) == {(5, 0), (5, 1), (5, 2)}


@pytest.mark.parametrize("shift", [3, 10**20])
def test_images_are_not_shifted_out_of_sight(shift):
    images = np.zeros((10, 1, 3, 5), np.float32)
    assert len(as_feed((images, LABELS), 5, 0, Augmentation(shift=2))) == 2
    with pytest.raises(DataError, match=r"fewer pixels than the data images have \(3 x 5\)"):
        as_feed((images, LABELS), 5, 0, Augmentation(shift=shift))


def test_calibration_batches_come_in_order_as_often_as_asked_for():
    first = FirstBatches(ArrayFeed(PAIR, 4), 2)
    for _ in range(2):
        assert [labels.tolist() for _, labels in first] == [[0, 1, 0, 1]] * 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((IMAGES, LABELS[:3]), r"x: expected labels of shape \(10,\)"),
        (
            (IMAGES, LABELS * 0),
            "x: expected at least two classes; received images of one only, class 0",
        ),
        ((IMAGES, np.eye(2)[LABELS]), r"one-hot labels of shape \(10, 2\)\. Pass labels.argmax"),
        ((IMAGES, LABELS + 0.5), "whole numbers from 0; received float64 such as 0.5"),
        ((IMAGES, None), "expected labels beside the images; received None"),
        ((["a"] * 10, LABELS), "x: images: expected numbers"),
        ((3.0, LABELS), "received one number for all the images"),
        ([IMAGES], "expected batches that are pairs"),
        ([(IMAGES, LABELS[:2])], r"expected labels of shape \(10,\), one an image"),
        ([], "expected labelled images; received none"),
        (3, "expected a secateurs.data.Split, a pair .*received int"),
        ("ab", "received str"),
    ],
)
def test_what_is_no_data_is_refused_with_its_name(source, message):
    with pytest.raises(DataError, match=message):
        as_feed(source, 4, name="x")


def test_labels_have_to_fit_the_outputs():
    check_labels(LABELS, 2)
    with pytest.raises(DataError, match=r"labels of 0 to 0, as the model has 1 outputs.*0 to 1"):
        check_labels(LABELS, 1)


def test_numbers_are_read_off_any_array_in_the_precision_of_training():
    half = torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True)
    assert as_array(half).tolist() == [1.5, 2.5]
    assert as_array([[1, 2]]).shape == (1, 2)
    for kind, wide, expected in (
        (np.uint8, False, np.float32),
        (np.uint8, True, np.float64),
        (np.float64, False, np.float32),
        (np.float64, True, np.float64),
        (np.float16, False, np.float16),
    ):
        assert ArrayPair(IMAGES.astype(kind), LABELS, wide=wide).images.dtype == expected


def test_two_arrays_with_a_class_an_image_are_labelled_images():
    assert is_labelled_images((IMAGES, LABELS))
    assert is_labelled_images(PAIR)
    assert not is_labelled_images((IMAGES, LABELS.astype(float)))
    assert not is_labelled_images((IMAGES, IMAGES.astype(int)))
    assert not is_labelled_images([(IMAGES, LABELS)])
