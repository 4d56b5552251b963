from types import SimpleNamespace

import numpy as np
import torch

from secateurs.calibration.ablation import AblationSums
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.removal import ExactAblation, tally_changes_, tally_dense_
from support.networks_by_hand import two_layers


class Foretold:
    """Removing channel c from image i costs c * i; every second image was right."""

    made = 0

    def __init__(self, batch):
        type(self).made += 1

    def dense(self, batch):
        number = batch.images[:, 0]
        return SimpleNamespace(
            losses=torch.from_numpy(number),
            right=torch.from_numpy(number % 2),
            labels=batch.labels,
            classes=2,
            images=number,
        )

    def ablate(self, dense, group, channels, where=None):
        loss = channels[:, None] * dense.images
        return SimpleNamespace(loss=torch.from_numpy(loss), right=np.sign(loss) * -1)


def batch(numbers):
    numbers = np.array(numbers, float)
    return CalibrationBatch(numbers[:, None], numbers.astype(int) % 2)


def test_every_channel_is_removed_on_every_image_of_every_batch():
    exact = ExactAblation(two_layers(), Foretold)
    exact.add(batch([1, 2]))
    exact.add(batch([3]))
    found = exact.ablation()
    assert Foretold.made == 1  # of the first batch: what it is made of does not change
    assert found.estimate["first"].tolist() == [0.0, 2.0, 4.0, 6.0]
    assert found.loss["first"][2].tolist() == [2 * 2, 2 * (1 + 3)]
    assert found.dense_loss == 2.0
    assert found.images.tolist() == [1, 2]
    assert found.dense_correct.tolist() == [0, 2]


def test_no_batches_give_empty_sums():
    found = ExactAblation(two_layers(), Foretold).ablation()
    assert found.images.tolist() == [0]
    assert not found.classified


def test_labels_that_are_no_classes_are_left_out():
    sums = AblationSums(two_layers(), 0)
    dense = SimpleNamespace(
        losses=torch.ones(3, dtype=torch.float16), right=None, labels=torch.rand(3), classes=0
    )
    tally_dense_(sums, dense)
    changes = SimpleNamespace(loss=torch.ones(2, 3), right=torch.zeros(2, 3))
    where = np.array([[True, False, False], [True, True, True]])
    tally_changes_(sums, dense, two_layers().groups[0], np.array([1, 3]), changes, where)
    assert sums.seen["first"].tolist() == [0, 1, 0, 3]
    assert sums.loss["first"][:, 0].tolist() == [0, 1, 0, 3]
