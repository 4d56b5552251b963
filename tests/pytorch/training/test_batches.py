import itertools

import numpy as np
import pytest
import torch
from torch import nn

from secateurs.calibration.examples import split_of
from secateurs.errors import DataError
from secateurs.pytorch.training.batches import (
    AnyFeed,
    call_model,
    length_of,
    on_device,
    rows_of,
    takes_targets,
)
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
        ((n for n in [(X, Y)]), "that can be gone through again"),
    ],
)
def test_what_is_no_data_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        AnyFeed(source, 4, name="x")


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        ((1, 2), 1, 2),
        ([1, 2], 1, 2),
        ((1, 2, 3), (1, 2), 3),
        ((1,), 1, None),
        ({"x": 1, "labels": 2}, {"x": 1}, 2),
        ({"x": 1}, {"x": 1}, None),
        (7, 7, None),
    ],
)
def test_inputs_and_targets_of_a_batch(batch, inputs, targets):
    assert split_of(batch) == (inputs, targets)


def test_tensors_are_where_the_model_is_and_in_single_precision():
    found = on_device(
        {"a": X, "b": [torch.ones(2, dtype=torch.float64)], "c": "text"}, torch.device("cpu")
    )
    assert (found["a"].dtype, found["b"][0].dtype, found["c"]) == (
        torch.float32,
        torch.float32,
        "text",
    )
    assert on_device(Y, torch.device("cpu")).dtype == torch.int64


def test_models_are_called_by_name_by_place_or_with_one_thing():
    class Takes(nn.Module):
        def forward(self, x, y=0, labels=None):
            return x + y

    model = Takes()
    assert [call_model(model, given) for given in ({"x": 1, "y": 2}, (1, 2), 1)] == [3, 3, 1]
    assert takes_targets(model, {"x": 1, "labels": 2})
    assert not takes_targets(model, {"x": 1, "target": 2})
    assert not takes_targets(model, (1, 2))


def test_examples_are_counted_in_any_kind_of_batch():
    images = [torch.zeros(3, 2, 2)] * 4
    assert [length_of(one) for one in ({"a": X}, (X, Y), [X, Y], images, ({"a": X}, Y), 3)] == [
        10,
        10,
        10,
        4,
        10,
        1,
    ]
    assert rows_of(images, [0, 2]) == [images[0], images[2]]
    assert rows_of((X, Y), np.array([3]))[1].tolist() == [3]
