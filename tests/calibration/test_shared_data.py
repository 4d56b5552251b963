"""Each of several processes reads its own part of calibration data."""

from types import SimpleNamespace

import numpy as np

from secateurs.calibration.examples import StepLoss
from secateurs.calibration.peers import ALONE
from secateurs.calibration.shared_data import SharedData, share

X = np.arange(14, dtype=np.float32).reshape(7, 2)
Y = np.arange(7)
PEERS = [SimpleNamespace(rank=rank, count=3) for rank in range(3)]


def test_batches_are_split_image_by_image():
    batches = [(X[:5], Y[:5]), (X[5:], Y[5:])]  # the second has too few for all three
    parts = [share(batches, one).part(X[:1], "score", None) for one in PEERS]
    assert all(peers is one for (_, peers), one in zip(parts, PEERS, strict=True))
    read = [[labels.tolist() for _, labels in given] for given, _ in parts]
    assert read == [[[0, 1], [5]], [[2, 3], [6]], [[4]]]
    images = [batch for given, _ in parts for batch, _ in given]
    np.testing.assert_array_equal(np.sort(np.concatenate(images), axis=0), X)


def test_fewer_images_than_processes_are_read_by_each():
    for one in PEERS:
        given, peers = SharedData((X[:2], Y[:2]), one).part(X[:1], "score", None)
        assert peers is ALONE
        assert [labels.tolist() for _, labels in given] == [[0, 1]]


def test_batches_of_a_training_step_are_split_example_by_example():
    batch = ([X[:1], X[:2], X[:3]], [{"boxes": n} for n in range(3)])
    given, _ = SharedData([batch], PEERS[2]).part(X[:1], "score", StepLoss(SimpleNamespace()))
    ((images, targets),) = given
    assert ([len(image) for image in images], targets) == ([3], [{"boxes": 2}])


def test_one_process_reads_the_data_as_they_are():
    data = object()
    assert share(data, ALONE) is data
