"""Scores of classes, judged against NumPy."""

import numpy as np
import pytest
import torch

from secateurs.errors import DataError, ModelError
from secateurs.pytorch.training.losses import check_scores, judge
from secateurs.training.feed import Batch

LABELS = np.array([0, 2, 1, 1, 0])
BATCH = Batch(np.zeros((5, 3, 4, 4), np.float32), LABELS, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_judged_in_single_precision(dtype):
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 3))).to(dtype)
    exact = scores.double().numpy()
    shares = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    correct, loss, count = judge(scores, torch.from_numpy(LABELS)).tolist()
    assert correct == (exact.argmax(axis=1) == LABELS).sum()
    assert loss == pytest.approx(-np.log(shares[np.arange(5), LABELS]).sum(), rel=1e-5)
    assert count == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_becomes_single(dtype):
    scores = torch.ones(5, 3, dtype=dtype)
    expected = torch.float64 if dtype is torch.float64 else torch.float32
    assert check_scores(scores, BATCH).dtype is expected


@pytest.mark.parametrize(
    ("scores", "received"),
    [(torch.ones(5, 3, 2), r"\(5, 3, 2\)"), ([torch.ones(5, 3)], "list"), (None, "NoneType")],
)
def test_what_is_no_scores_is_refused(scores, received):
    with pytest.raises(ModelError, match=rf"scores of shape \(images, classes\).*{received}"):
        check_scores(scores, BATCH)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(DataError):
        check_scores(torch.ones(5, 2), BATCH)
