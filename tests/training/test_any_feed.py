"""Batches of any kind, in an order that depends on the seed and the epoch only."""

import itertools

import numpy as np
import pytest
import torch

from secateurs.errors import DataError
from secateurs.training.any_feed import AnyFeed
from secateurs.training.feed import Shard

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


def first_numbers(feed, *arguments):
    return [batch.images[1].tolist() for batch in feed.shuffle(*arguments)]


def test_arrays_are_cut_into_batches_shuffled_by_seed_and_epoch():
    feed = AnyFeed((X, Y), 4, seed=1)
    assert len(feed) == feed.whole_length == 3
    one = first_numbers(feed, 0, 0, Shard())
    assert sorted(itertools.chain(*one)) == list(range(10))
    assert first_numbers(AnyFeed((X, Y), 4, seed=1), 0, 0, Shard()) == one
    assert first_numbers(feed, 1, 0, Shard()) != one
    assert first_numbers(feed, 0, 2, Shard()) == one[2:]
    assert [batch.images[1].tolist() for batch in feed.in_order()] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_processes_share_a_batch_of_any_kind():
    batch = {"x": torch.arange(5), "boxes": [{"n": n} for n in range(5)], "note": "kept"}
    parts = [next(iter(AnyFeed([batch], 9).in_order(Shard(i, 2)))) for i in range(2)]
    assert [part.whole for part in parts] == [5, 5]
    assert torch.equal(torch.cat([part.images["x"] for part in parts]), torch.arange(5))
    assert list(itertools.chain(*(part.images["boxes"] for part in parts))) == batch["boxes"]
    assert {part.images["note"] for part in parts} == {"kept"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "x: expected batches, or arrays; received int"),
        ("ab", "received str"),
        ([], "x: expected at least one batch"),
        ((n for n in [(X, Y)]), "that can be iterated again"),
    ],
)
def test_what_is_no_data_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        AnyFeed(source, 4, name="x")


def test_every_example_of_several_inputs_in_a_tuple_is_seen():
    left, right, goal = np.arange(12).reshape(6, 2), np.zeros((6, 3)), np.arange(6)
    feed = AnyFeed(((left, right), goal), 4)
    batches = [batch.images for batch in feed.in_order()]
    assert len(feed) == 2
    assert [inputs[0][:, 0].tolist() for inputs, _ in batches] == [[0, 2, 4, 6], [8, 10]]
    assert [targets.tolist() for _, targets in batches] == [[0, 1, 2, 3], [4, 5]]
