"""Batches of any structure, split into what a Keras model takes and what it is trained towards."""

import keras
import numpy as np
import pytest

from secateurs.errors import DataError
from secateurs.keras.training.readers import TaskReader, as_arrays, as_tensors
from secateurs.training.task import LearningTask

LEFT = np.arange(12, dtype=np.float32).reshape(6, 2)
RIGHT = np.ones((6, 3), np.float32)
GOAL = np.arange(6, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def model():
    left, right = keras.Input((2,), name="left"), keras.Input((3,), name="right")
    both = keras.layers.Concatenate()([left, right])
    return keras.Model([left, right], keras.layers.Dense(1)(both))


@pytest.fixture
def reader(model):
    return TaskReader(model, LearningTask("own", loss=lambda outputs, targets: outputs - targets))


def test_what_the_model_takes_is_chosen_by_name(reader):
    inputs, targets = reader.split(({"right": RIGHT, "left": LEFT, "noise": GOAL}, GOAL))
    assert list(inputs) == ["left", "right"]
    assert inputs["left"] is LEFT
    assert targets is GOAL


def test_several_inputs_in_a_tuple_keep_their_order(reader):
    inputs, targets = reader.split(((LEFT, RIGHT), GOAL))
    assert [one.shape for one in inputs] == [(6, 2), (6, 3)]
    assert targets is GOAL


def test_whole_arrays_come_in_batches_of_the_given_size(reader):
    feed = reader.feed(((LEFT, RIGHT), GOAL), "train", batch_size=4, seed=0)
    batches = [reader.split(batch.images) for batch in feed.in_order()]
    assert [len(targets) for _, targets in batches] == [4, 2]
    assert np.array_equal(np.concatenate([targets for _, targets in batches]), GOAL)


def test_a_loader_keeps_its_batches_as_arrays(reader):
    tensors = keras.ops.convert_to_tensor(LEFT), keras.ops.convert_to_tensor(RIGHT)
    feed = reader.feed([(tensors, GOAL)] * 3, "train", batch_size=2, seed=0)
    assert len(feed) == 3
    first = next(feed.in_order()).images
    assert isinstance(first[0][0], np.ndarray)
    assert np.array_equal(first[0][0], LEFT)


def test_the_first_inputs_are_those_of_the_first_examples(reader):
    feed = reader.feed(((LEFT, RIGHT), GOAL), "validation", batch_size=4, seed=0)
    left, right = reader.read_first(feed, "validation", 2)
    assert np.array_equal(left, LEFT[:2])
    assert right.shape == (2, 3)


def test_another_number_of_inputs_is_refused(reader):
    feed = reader.feed((LEFT, GOAL), "validation", batch_size=4, seed=0)
    with pytest.raises(DataError, match=r"validation: expected 2 inputs \(left, right\)"):
        reader.read_first(feed, "validation", 1)


@pytest.mark.parametrize("source", [3, "abc"])
def test_what_holds_no_batches_is_refused(reader, source):
    with pytest.raises(DataError, match="expected batches, or arrays; received"):
        reader.feed(source, "train", 4, 0)


def test_structures_are_kept():
    batch = {"a": [keras.ops.ones((2,)), None], "b": "text"}
    arrays = as_arrays(batch)
    assert isinstance(arrays["a"], tuple)
    assert arrays["a"][0].tolist() == [1.0, 1.0]
    assert (arrays["a"][1], arrays["b"]) == (None, "text")
    tensors = as_tensors(arrays["a"])
    assert keras.ops.is_tensor(tensors[0])
    assert tensors[1] is None
