"""Batches of any kind: counting, selecting and reading their examples."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import (
    ExampleBatch,
    StepLoss,
    as_arrays,
    as_given,
    first_batches,
    iterate_examples,
    length_of,
    read_batches,
    rows_of,
    split_of,
)

IMAGES = [torch.zeros(3, 4, 5), torch.ones(3, 6, 7), 2 * torch.ones(3, 4, 5)]
TARGETS = [{"boxes": torch.zeros(n, 4)} for n in (1, 2, 3)]
KINDS = {
    "arrays": (np.arange(6).reshape(3, 2), np.arange(3)),
    "lists of images and targets": (IMAGES, TARGETS),
    "a dictionary": {"input_ids": torch.arange(6).reshape(3, 2), "labels": torch.arange(3)},
    "a loader's list": [torch.arange(6).reshape(3, 2), torch.arange(3)],
    "two inputs and a target": (torch.zeros(3, 2), torch.ones(3, 2), torch.arange(3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_as_long_as_its_examples_and_split_along_them(kind):
    (batch,) = iterate_examples([KINDS[kind]], "here")
    assert len(batch) == 3
    some = batch.rows(np.array([2, 0]))
    assert len(some) == 2
    inputs, targets = split_of(some.images)
    first = inputs["input_ids"] if isinstance(inputs, dict) else inputs
    whole = split_of(KINDS[kind])[0]
    whole = whole["input_ids"] if isinstance(whole, dict) else whole
    if isinstance(first, tuple):
        first, whole = first[0], whole[0]
    assert torch.equal(torch.as_tensor(first[0]), torch.as_tensor(whole[2]))
    assert targets is not None


def test_whole_arrays_are_cut_into_batches():
    x, y = np.arange(300)[:, None], np.arange(300)
    batches = list(iterate_examples((x, y), "here"))
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert np.array_equal(np.concatenate([as_given(batch)[1] for batch in batches]), y)
    named = list(iterate_examples(({"x": x}, y), "here"))
    assert np.array_equal(named[1].images["labels"], y[128:256])


def test_the_first_batches_and_one_examples_inputs():
    batches, example = first_batches([(IMAGES, TARGETS), (IMAGES, TARGETS)], 2)
    assert len(batches) == 1
    (images,) = example  # a list of images is one argument
    assert [tuple(image.shape) for image in images] == [(3, 4, 5)]
    _, example = first_batches((np.ones((9, 2)), np.ones(9)), 4)
    assert example.shape == (1, 2)


def test_what_a_loss_takes_decides_how_data_are_read():
    x, y = np.ones((4, 2), np.float32), np.arange(4)
    (plain,) = read_batches((x, y), x[:1], "here", None)
    assert type(plain) is CalibrationBatch
    (whole,) = read_batches((x, y), x[:1], "here", StepLoss(sec.LearningTask("mine")))
    assert isinstance(whole, ExampleBatch)
    with pytest.raises(sec.DataError, match="task 'mine': expected a loss of"):
        StepLoss(sec.LearningTask("mine"))(x, y)


def test_rows_of_other_objects_are_unchanged():
    assert rows_of({"x": np.arange(3), "name": "a"}, [1]) == {"x": np.array([1]), "name": "a"}
    assert length_of(5) == 1


def test_inputs_and_targets_of_which_one_side_is_several_arrays_are_whole_data():
    x, boxes = np.zeros((4, 2)), {"a": np.zeros((4, 1)), "b": np.zeros(4)}
    assert as_arrays((x, boxes))[1] is boxes
    assert as_arrays(((x, x), x))[0][1] is x
    assert as_arrays(((x, x), (x, x))) is None  # two batches
    assert as_arrays((x, {"a": np.zeros(3)})) is None
    assert as_arrays((x, [np.zeros(2)] * 4)) is None  # one target an example


def test_several_inputs_in_a_tuple_of_their_own_are_as_many_examples_as_each_holds():
    left, right, goal = np.zeros((6, 2)), np.zeros((6, 3)), np.zeros(6)
    assert length_of(((left, right), goal)) == 6
    assert length_of((left, right, goal)) == 6
    assert length_of(()) == length_of(((), goal)) == 0
