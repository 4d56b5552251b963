"""The loss of each image, and whether it is classified correctly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from secateurs.backends import Loss
from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.tracing.op_call import iterate_tensors


class PerExampleLoss:
    """Cross-entropy with labels, or a user's loss, image by image.

    Args:
        loss: (outputs, labels) -> a tensor with one loss for each image; None is cross-entropy.
        caller: name of the caller, for messages.
    """

    def __init__(self, loss: Loss | None, caller: str) -> None:
        self._loss = loss
        self._caller = caller

    @property
    def needs_labels(self) -> bool:
        """Whether the loss requires labels."""
        return self._loss is None

    def losses(self, outputs: object, labels: torch.Tensor | None) -> torch.Tensor:
        """The loss of each image, shape (N,).

        Raises:
            DataError: the outputs and labels do not fit the loss.
        """
        if self._loss is None:
            return self._cross_entropy(outputs, labels)
        losses = self._call_loss(outputs, labels)
        images = next(iter(iterate_tensors(outputs))).shape[0]
        if not isinstance(losses, torch.Tensor) or losses.shape != (images,):
            received = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses)
            raise DataError(
                f"{self._caller}: expected loss(outputs, labels) to return one loss for each "
                f"image, shape ({images},); received {received}. Leave out its mean: "
                "reduction='none'."
            )
        return losses

    def _call_loss(self, outputs: object, labels: torch.Tensor | None) -> object:
        """Call the user's loss; report an exception with the outputs and labels it received."""
        function = self._loss
        try:
            return None if function is None else function(outputs, labels)
        except (TypeError, AttributeError, KeyError, IndexError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{self._caller}: loss= raised {type(error).__name__} "
                f"({' '.join(str(error).split())[:200]}) on outputs that are "
                f"{_describe(outputs)} and labels that are {_describe(labels)}. Expected a "
                "function of these that returns one loss for each example."
            ) from error

    def right(self, outputs: object, labels: torch.Tensor | None) -> torch.Tensor | None:
        """Which images are classified correctly, shape (N,); None where labels are not classes."""
        scores = _scores_in(outputs)
        if labels is None or not self.classifies(scores, labels):
            return None
        return scores.argmax(1) == labels

    def classifies(self, outputs: object, labels: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
        """Whether outputs are class scores and labels are classes."""
        return (
            isinstance(outputs, torch.Tensor)
            and outputs.dim() == 2
            and labels is not None
            and labels.dim() == 1
            and not labels.is_floating_point()
            and int(labels.min()) >= 0
            and int(labels.max()) < outputs.shape[1]
        )

    def _cross_entropy(self, given: object, labels: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy of each image, shape (N,), as a mean over positions if there are any."""
        outputs = _scores_in(given)
        if not isinstance(outputs, torch.Tensor) or outputs.dim() < 2:
            raise DataError(
                f"{self._caller}: expected a model that gives scores of shape (N, classes); "
                f"received {type(given).__name__}. Pass loss=, a function (outputs, labels) -> one "
                "loss for each image, or task=, such as 'language-modelling'."
            )
        expected = (outputs.shape[0], *outputs.shape[2:])
        if labels is None or labels.is_floating_point() or tuple(labels.shape) != expected:
            received = "none" if labels is None else f"{labels.dtype} {tuple(labels.shape)}"
            raise DataError(
                f"{self._caller}: expected labels that are whole numbers of shape {expected}; "
                f"received {received}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs.shape[1]:
            raise DataError(
                f"{self._caller}: expected labels from 0 to {outputs.shape[1] - 1}, the model's "
                f"classes; received {low if low < 0 else high}"
            )
        losses = F.cross_entropy(outputs, labels, reduction="none")
        return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def _scores_in(outputs: object) -> object:
    """Class scores: the outputs themselves, or the ``logits`` of a Transformers model's output."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    found = getattr(outputs, "logits", None)
    return found if isinstance(found, torch.Tensor) and found.dim() == 2 else outputs


def _describe(value: object) -> str:
    """Describe a value for messages: 'a CausalLMOutput with logits (1, 4, 10)'."""
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        parts = ", ".join(f"{key} {tuple(getattr(one, 'shape', ()))}" for key, one in value.items())
        return f"a {type(value).__name__} with {parts or 'nothing in it'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def on_device(
    batch: CalibrationBatch, model: nn.Module
) -> tuple[tuple[object, ...], dict[str, object], torch.Tensor | None]:
    """(arguments, keywords, labels) of a batch on the model's device."""
    arguments, keywords = parse_example_inputs(batch.images, model)
    return arguments, keywords, labels_on_device(batch.labels, model)


def labels_on_device(labels: NDArray[np.generic] | None, model: nn.Module) -> torch.Tensor | None:
    """A batch's labels, if it has any, on the model's device."""
    if labels is None:
        return None
    whole = labels.dtype.kind in "iub"
    made = torch.from_numpy(np.ascontiguousarray(labels.astype(np.int64) if whole else labels))
    like = next(model.parameters(), None)
    return made if like is None else made.to(like.device)
