import warnings

import numpy as np
import pytest

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError
from secateurs.reconstruction.calibration import (
    Calibration,
    example_from,
    furthest_from_training,
    in_batches,
    join_batches,
)

X = np.arange(80, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)


def split(images=X, **options):
    return Calibration.of_batches([CalibrationBatch(images, None)], **options)


def numbers(batch):
    return set(batch.images[:, 0].astype(int).tolist())


def test_the_three_parts_are_disjoint_and_complete():
    found = split()
    parts = [numbers(part) for part in (found.fit, found.choose, found.judge)]
    assert list(map(len, parts)) == [56, 14, 10]  # an eighth judges, seven fortieths choose
    assert set().union(*parts) == set(range(80))
    assert numbers(found.curves) == parts[1] | parts[2]
    assert len(found) == 80
    assert [numbers(p) for p in (split(seed=1).fit, split(seed=1).judge)] != [parts[0], parts[2]]


def test_images_of_one_source_are_in_one_part():
    sources = [f"photo {number // 8}" for number in range(80)]
    found = split(sources=sources)
    of = [{n // 8 for n in numbers(part)} for part in (found.fit, found.choose, found.judge)]
    assert sum(map(len, of)) == 10
    with pytest.raises(DataError, match=r"at least 3 sources.*received 2"):
        split(sources=[number % 2 for number in range(80)])
    with pytest.raises(DataError, match=r"one source for each of 80 images; .*shape \(3,\)"):
        split(sources=[1, 2, 3])


def test_few_or_equal_images_are_warned_of_and_none_are_refused():
    with pytest.raises(DataError, match=r"x: expected at least 4 calibration images.*received 3"):
        split(X[:3], caller="x")
    with pytest.warns(UserWarning, match="10 calibration images are few.*only 1 of them evaluate"):
        split(X[:10])
    with pytest.warns(UserWarning, match="all 80 calibration images are identical"):
        split(np.ones_like(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split()


def test_batches_are_joined_and_cut_again():
    parts = [
        CalibrationBatch({"a": X[:3]}, np.arange(3)),
        CalibrationBatch({"a": X[3:8]}, np.arange(5)),
    ]
    whole = join_batches(parts)
    assert np.array_equal(whole.images["a"], X[:8])
    assert whole.labels.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert [len(part) for part in in_batches(whole, 3)] == [3, 3, 2]
    mixed = join_batches([parts[0], CalibrationBatch({"a": X[3:5]}, None)])
    assert mixed.labels is None
    pair = join_batches([CalibrationBatch((X[:2], X[:2]), None)] * 2)
    assert [array.shape for array in pair.images] == [(4, 3), (4, 3)]


@pytest.mark.parametrize(
    "data",
    [X, (X, np.arange(80)), [(X, np.arange(80))], [X, X], iter([(X, np.arange(80))])],
    ids=["images", "pair", "pairs", "batches", "generator"],
)
def test_an_example_is_the_first_image_whatever_form_the_data_have(data):
    example, again = example_from(data)
    assert example.tolist() == [[0.0, 0.0, 0.0]]
    assert example_from(again)[0].tolist() == example.tolist()  # what is used up is kept in a list


def test_examples_of_several_inputs():
    assert example_from({"a": X})[0]["a"].shape == (1, 3)
    assert [one.shape for one in example_from([(X, X)])[0]] == [(1, 3), (1, 3)]
    with pytest.raises(DataError, match="received int"):
        example_from(3)


def test_the_layer_that_is_furthest_from_its_training_by_hand():
    seen = {
        "near": [(np.array([4.0, 0.0]), 4), (np.array([2.0, 6.0]), 2)],  # means 1 and 1
        "far": [(np.array([9.0]), 3)],  # a mean of 3
    }
    trained = {
        "near": (np.array([0.0, 1.0]), np.array([0.5, 2.0])),
        "far": (np.array([1.0]), np.array([2.0])),
    }
    assert furthest_from_training(seen, trained) == (2.0, "far")  # of 1 and 4 / 2
    assert furthest_from_training({"near": seen["near"]}, trained) == (1.0, "near")
    assert furthest_from_training({}, {}) is None
