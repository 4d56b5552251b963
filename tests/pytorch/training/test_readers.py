"""Batches of images and of tasks, as a learner reads them."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.errors import DataError
from secateurs.pytorch.training.processes import Processes
from secateurs.pytorch.training.readers import ImageReader, TaskReader, floating_dtype
from secateurs.training.feed import Batch, Shard

IMAGES = np.random.default_rng(0).random((6, 1, 4, 4), np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ROWS = np.array([3, 1])


def make(kind, model=None):
    training = sec.Training(batch_size=4, flip=True)
    return kind(model or nn.Linear(2, 2), training, Processes(training))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_images_come_in_the_precision_of_the_weights(dtype):
    reader = make(ImageReader, nn.Linear(2, 2).to(dtype))
    images, labels = reader.on_device(Batch(IMAGES, LABELS, 6))
    assert images.dtype is dtype
    assert torch.equal(images, torch.from_numpy(IMAGES).to(dtype))
    assert labels.tolist() == LABELS.tolist()


def test_weights_of_several_precisions_have_none_in_common():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert floating_dtype(model) is None
    assert floating_dtype(model[1]) is torch.float64


def test_images_are_counted_selected_and_read():
    reader, batch = make(ImageReader), Batch(IMAGES, LABELS, 12)
    assert reader.count(batch) == 6
    some = reader.select(batch, ROWS)
    assert (some.labels.tolist(), some.whole) == ([0, 1], 12)
    assert np.array_equal(some.images, IMAGES[ROWS])
    feed = reader.feed((IMAGES, LABELS), "validation", 4)
    assert torch.equal(reader.read_first(feed, 2), torch.from_numpy(IMAGES[:2]))
    assert reader.call(nn.Flatten(), torch.ones(2, 1, 4, 4)).shape == (2, 16)


def test_a_batch_of_training_has_an_image_for_each_process():
    processes = Processes(sec.Training())
    processes.share = Shard(0, 5)
    reader = ImageReader(nn.Linear(2, 2), sec.Training(), processes)
    with pytest.raises(DataError, match="at least 5 images, one a process; received 4"):
        reader.feed((IMAGES, LABELS), "train", 4)
    assert reader.feed((IMAGES, LABELS), "validation", 4).whole_length == 2


def test_batches_of_a_task_are_counted_selected_and_read():
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    reader, batch = make(TaskReader), Batch({"x": x, "labels": y}, np.zeros(0), 12)
    assert reader.count(batch) == 6
    some = reader.select(batch, ROWS)
    assert (some.images["labels"].tolist(), some.whole) == ([3, 1], 12)
    assert torch.equal(some.images["x"], x[[3, 1]])
    given = reader.on_device(Batch((x.double().numpy(), y), np.zeros(0), 6))
    assert (given[0].dtype, given[1].tolist()) == (torch.float32, y.tolist())
    feed = reader.feed([{"x": x, "labels": y}], "train", 4)
    assert torch.equal(reader.read_first(feed, 2)["x"], x[:2])


def test_a_list_of_images_is_one_argument():
    reader = make(TaskReader)
    pictures = [torch.ones(1, 4, 4), torch.ones(1, 5, 5)]
    feed = reader.feed([(pictures, [0, 1])], "train", 4)
    (first,) = reader.read_first(feed, 2)
    assert [one.shape[1:] for one in first] == [(4, 4), (5, 5)]
    assert reader.call(len, (first,)) == 2
