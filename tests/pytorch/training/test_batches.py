import numpy as np
import pytest
import torch
from torch import nn

from secateurs.calibration.examples import length_of, rows_of, split_of
from secateurs.pytorch.training.batches import call_model, on_device, takes_targets

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


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
