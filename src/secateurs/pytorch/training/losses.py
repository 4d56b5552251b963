"""Class scores: whether a model's outputs are such, and how good they are."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from secateurs.errors import ModelError
from secateurs.training.feed import Batch, check_labels


def check_scores(scores: object, batch: Batch) -> torch.Tensor:
    """Check that outputs are scores of the classes of a batch's labels; return them.

    Args:
        scores: output of a model for the batch.
        batch: images with labels.

    Returns:
        The scores, of shape (images, classes); half precision becomes single.

    Raises:
        ModelError: the output has another shape.
        DataError: a label is none of the classes.
    """
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        received = (
            tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        )
        raise ModelError(
            "expected a model that gives scores of shape (images, classes) for a batch of images; "
            f"received {received}"
        )
    check_labels(batch.labels, scores.shape[1])
    # Half precision cannot hold the sum over a batch, nor the logarithm of a small number.
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def judge(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(number of correctly classified images, sum of losses, number of images), shape (3,)."""
    scores = scores.float()
    correct = (scores.argmax(dim=1) == labels).sum().double()
    loss = F.cross_entropy(scores, labels, reduction="sum").double()
    return torch.stack([correct, loss, correct.new_tensor(len(labels))])
