"""Calibration data in every form that users have."""

import numpy as np
import pytest
import torch

from secateurs import data
from secateurs.calibration.batches import CalibrationBatch, as_array, iterate_batches
from secateurs.calibration.examples import first_batches
from secateurs.errors import DataError

X = np.arange(300 * 3, dtype=np.float32).reshape(300, 3)
Y = np.arange(300) % 2
LIKE = X[:1]


def batches(given, like=LIKE, *, labels=False):
    return list(iterate_batches(given, like, "x", labels=labels))


def flat(found):
    return np.concatenate([batch.images for batch in found])


@pytest.mark.parametrize(
    "given",
    [
        X,
        (X, Y),
        (torch.from_numpy(X), None),
        [(X[:200], Y[:200]), (X[200:], Y[200:])],
        [X[:200], X[200:]],
        [[X]],
        iter([{"x": X, "labels": Y}]),
        {"x": X, "target": Y},
    ],
    ids=["images", "pair", "no labels", "pairs", "batches", "of one", "dictionaries", "dictionary"],
)
def test_any_form_holds_the_same_images(given):
    like = {"x": LIKE} if isinstance(given, dict) or hasattr(given, "__next__") else LIKE
    found = batches(given, like)
    images = [b.images["x"] if isinstance(b.images, dict) else b.images for b in found]
    assert np.array_equal(np.concatenate(images), X)


def test_whole_arrays_are_cut_into_batches_with_their_labels():
    found = batches((X, Y), labels=True)
    assert [len(batch) for batch in found] == [128, 128, 44]
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), Y)
    some = found[0].rows(np.array([5, 1]))
    assert some.images.tolist() == X[[5, 1]].tolist()
    assert some.labels.tolist() == [1, 1]


def test_several_inputs_are_told_from_batches_and_from_labels():
    pair = (X[:, :2], X)
    (found,) = batches((X[:9, :2], X[:9]), (pair[0][:1], pair[1][:1]))
    assert [array.shape for array in found.images] == [(9, 2), (9, 3)]
    named = {"a": X[:9], "labels": Y[:9]}
    (with_labels,) = batches(named, {"a": LIKE, "labels": Y[:1]})
    assert set(with_labels.images) == {"a", "labels"}  # the model takes them itself


def test_a_split_is_rescaled_as_in_training():
    split = data.load("digits", limit=50).train
    found = batches(split, split.batch([0])[0])
    assert np.array_equal(flat(found), split.batch(slice(None))[0])


def test_bfloat16_becomes_float32():
    assert as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "x: expected calibration data; received none"),
        ([], "received no batch"),
        (3, "received int"),
        (X[:, :2], r"expected images of shape \(N, 3\).*received \(128, 2\)"),
        (X.astype(int), "expected floating-point images"),
        (np.where(X == 6, np.nan, X), "image 2 holds NaN"),
        ((X, Y[:4]), "expected as many labels as images; received 4 labels for 300"),
        ((X, np.array(["a"] * 300)), "expected labels that are numbers"),
        ((X, np.where(Y > 0, np.nan, 0.5)), "expected finite labels"),
        ({"x": X, "y": X[:3]}, r"one entry for each image; received shapes \(\d+, .*\(3, "),
        ({"x": X, "y": 1.0}, r"one entry for each image; received shapes .*, \(\)"),
        ({"x": [[1.0], []]}, "expected an array of numbers; received a list of entries of several"),
        ({"x": X, "label": 3}, "as many labels as images; received one number as labels"),
    ],
)
def test_unusable_data_are_refused_in_one_line(given, message):
    with pytest.raises(DataError, match=message) as raised:
        batches(given)
    assert "\n" not in str(raised.value)


def test_labels_are_asked_for_where_they_are_needed():
    with pytest.raises(DataError, match="expected labels; received images alone"):
        batches(X, labels=True)


def test_an_array_goes_to_the_only_input_and_no_other():
    (found,) = batches(X[:5], {"pixels": LIKE})
    assert np.array_equal(found.images["pixels"], X[:5])
    with pytest.raises(
        DataError, match=r"expected a dictionary of a, b.*Pass data=\(\{'a': \.\.\."
    ):
        batches(X[:5], {"a": LIKE, "b": LIKE})
    with pytest.raises(DataError, match=r"expected 2 inputs.*received 1"):
        batches({"a": X[:5]}, {"a": LIKE, "b": LIKE})


def test_the_first_batches_hold_the_requested_number_of_examples():
    found, example = first_batches([(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])], 6)
    assert [len(images) for images, _ in found] == [4, 2]
    assert example.tolist() == X[:1].tolist()
    with pytest.raises(DataError, match="data: expected calibration data; received no batch"):
        first_batches([], 2)
    assert len(CalibrationBatch((X, X), None)) == 300
