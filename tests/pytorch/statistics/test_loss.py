"""The loss of each image, against formulas written out."""

import numpy as np
import pytest
import torch

from secateurs.errors import DataError
from secateurs.pytorch.statistics.loss import PerExampleLoss

SCORES = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
LABELS = torch.tensor([0, 1])


def test_cross_entropy_of_each_image():
    losses = PerExampleLoss(None, "test").losses(SCORES, LABELS)
    scores = SCORES.double().numpy()
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert np.allclose(losses.numpy(), -logs[[0, 1], [0, 1]], atol=1e-6)


def test_which_images_are_classified_right():
    assert PerExampleLoss(None, "test").right(SCORES, LABELS).tolist() == [True, False]


def test_a_loss_of_the_users_is_called_with_what_the_model_gave():
    objective = PerExampleLoss(lambda outputs, labels: (outputs[:, 0] - labels) ** 2, "test")
    assert not objective.needs_labels
    assert objective.losses(SCORES, LABELS).tolist() == [4.0, 1.0]


def test_a_loss_that_takes_the_mean_is_refused():
    with pytest.raises(DataError, match=r"test: .* shape \(2,\)"):
        PerExampleLoss(lambda outputs, labels: outputs.mean(), "test").losses(SCORES, None)
