"""Predefined tasks for PyTorch models, and metrics by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from secateurs.calibration.examples import split_of
from secateurs.errors import DataError, ModelError, UnknownNameError
from secateurs.models.names import import_torchvision
from secateurs.training.objectives import IGNORED, first_of, takes_the_model
from secateurs.training.task import LearningTask, check_metric_name, numbers_from

if TYPE_CHECKING:
    from torchmetrics import Metric

Detections = tuple[Sequence[torch.Tensor], Sequence[Mapping[str, torch.Tensor]]]
"""(images, boxes and labels of each), as torchvision's detectors take them."""


def scores_of(outputs: object) -> torch.Tensor:
    """The scores among a model's outputs.

    These are a tensor, ``.logits``, a dictionary's 'out', or a tuple's first item in use.

    Raises:
        ModelError: there are none.
    """
    for name in ("logits", "out", "scores"):
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(found, torch.Tensor):
            return found
    if isinstance(outputs, tuple | list):
        outputs = next((one for one in outputs if one is not None), None)
    if not isinstance(outputs, torch.Tensor):
        raise ModelError(
            "expected a model that gives scores: a tensor, or something with .logits; received "
            f"{type(outputs).__name__}. Pass loss= and metric=, functions of (outputs, targets)."
        )
    return outputs


def classify(outputs: object, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each example; over pixels where there are any, ignoring labels of 255."""
    scores = scores_of(outputs)
    ignored = 255 if scores.dim() == 4 else IGNORED
    if targets.shape != (scores.shape[0], *scores.shape[2:]):
        raise DataError(
            "expected labels that are classes, whole numbers of shape "
            f"{(scores.shape[0], *scores.shape[2:])}; received {targets.dtype} of shape "
            f"{tuple(targets.shape)}. Of rows with a single 1: labels.argmax(1)"
        )
    outside = targets[(targets != ignored) & ((targets < 0) | (targets >= scores.shape[1]))]
    if len(outside):
        raise DataError(
            f"expected labels of 0 to {scores.shape[1] - 1}, as the model has {scores.shape[1]} "
            f"outputs, or {ignored}, which is left out; received {outside[0].item()}"
        )
    losses = F.cross_entropy(scores, targets.long(), reduction="none", ignore_index=ignored)
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def predict_next(outputs: object, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each sequence's next tokens.

    Outputs have shape (N, length, vocabulary), targets (N, length).
    """
    return _by_token(scores_of(outputs)[:, :-1], targets[:, 1:])


def fill_masks(outputs: object, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each sequence's masked tokens, whose targets are not -100."""
    return _by_token(scores_of(outputs), targets)


def _by_token(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(
        scores.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED
    )
    counted = (targets != IGNORED).sum(1).clamp(min=1)
    found: torch.Tensor = losses.sum(1) / counted
    return found


def match_shape(targets: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A model's values in the shape of their targets, with or without an axis of length one.

    Raises:
        DataError: their numbers differ.
    """
    if values.numel() != targets.numel():
        raise DataError(
            f"expected a target for each value that the model gives, shape {tuple(values.shape)}; "
            f"received targets of shape {tuple(targets.shape)}. Classes are for "
            "task='classification'."
        )
    return values.reshape(targets.shape)


def square_error(outputs: object, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each example."""
    values = scores_of(outputs)
    errors = (match_shape(targets, values).float() - targets.float()).square()
    found: torch.Tensor = errors.flatten(1).mean(1) if errors.dim() > 1 else errors
    return found


def contrast(outputs: object, targets: torch.Tensor) -> torch.Tensor:
    """InfoNCE of each example: examples with the same target against all others of the batch.

    Source: van den Oord, Li & Vinyals 2018; Khosla et al., Supervised Contrastive Learning, 2020.
    """
    vectors = F.normalize(scores_of(outputs), dim=1)
    near = vectors @ vectors.T / 0.1
    itself = torch.eye(len(near), dtype=torch.bool, device=near.device)
    like = (targets[:, None] == targets[None]) & ~itself
    shares = F.log_softmax(near.masked_fill(itself, -torch.inf), dim=1).masked_fill(itself, 0)
    found: torch.Tensor = -(shares * like).sum(1) / like.sum(1).clamp(min=1)
    return found


class RecallAtOne:
    """Fraction of examples whose nearest neighbour in the whole split has the same target."""

    _AT_A_TIME = 1024

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard all examples."""
        self._vectors: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def update(self, outputs: object, targets: object) -> None:
        """Add a batch's vectors, shape (N, length), and targets, shape (N,)."""
        self._vectors.append(F.normalize(scores_of(outputs).float(), dim=1))
        self._targets.append(torch.as_tensor(targets))

    def compute(self) -> torch.Tensor:
        """The fraction, as a scalar tensor."""
        vectors, targets = torch.cat(self._vectors), torch.cat(self._targets)
        right = 0.0
        for start in range(0, len(vectors), self._AT_A_TIME):
            near = vectors[start : start + self._AT_A_TIME] @ vectors.T
            rows = torch.arange(len(near), device=near.device)
            near[rows, start + rows] = -torch.inf
            right += float((targets[near.argmax(1)] == targets[start + rows]).sum())
        return torch.tensor(right / len(vectors))


def detect_step(model: nn.Module, batch: Detections) -> torch.Tensor:
    """The sum of the losses that torchvision's detectors return in train mode."""
    losses = model(*batch)
    if not isinstance(losses, Mapping):
        raise ModelError(
            "detection: expected a model that gives a dictionary of losses for (images, targets), "
            f"as torchvision's do; received {type(losses).__name__}. Pass train_step=."
        )
    return torch.stack([loss for loss in losses.values() if loss.dim() == 0]).sum()


def detect(model: nn.Module, batch: Detections) -> tuple[object, list[Mapping[str, torch.Tensor]]]:
    """(predicted boxes, true boxes) of a batch (images, targets)."""
    images, targets = batch
    return model(list(images)), list(targets)


TASKS: Mapping[str, LearningTask] = MappingProxyType(
    {
        "classification": LearningTask("classification", classify, "accuracy"),
        "segmentation": LearningTask("segmentation", classify, "iou"),
        "detection": LearningTask(
            "detection", metric="map", train_step=detect_step, predict=detect
        ),
        "language-modelling": LearningTask("language-modelling", predict_next, "perplexity"),
        "masked-language-modelling": LearningTask(
            "masked-language-modelling", fill_masks, "perplexity"
        ),
        "regression": LearningTask("regression", square_error, "mse"),
        "embedding": LearningTask("embedding", contrast, "recall1"),
    }
)


def tasks_of(model: nn.Module) -> Mapping[str, LearningTask]:
    """The predefined tasks; they suit any PyTorch model, whose outputs show how to read them."""
    del model
    return TASKS


def default_task(model: nn.Module, data: object = None) -> LearningTask | None:
    """The model's own loss, where it takes the labels in the data as named arguments.

    Named inputs with class labels that the model does not take are classified; None otherwise.
    """
    if takes_the_model(model, data):
        return LearningTask()
    first = first_of(data)
    targets = split_of(first)[1] if isinstance(first, Mapping) else None
    whole = getattr(targets, "ndim", 0) == 1 and "int" in str(getattr(targets, "dtype", ""))
    return TASKS["classification"] if whole else None


def check_needs_none(task: LearningTask, inputs: object) -> None:
    """Refuse a batch without targets where the task needs them.

    Raises:
        DataError: the task is a predefined one, which learns from targets.
    """
    if task.name in TASKS and task.loss is TASKS[task.name].loss:
        held = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise DataError(
            f"{task.name}: expected batches (inputs, targets), or dictionaries with labels; "
            f"received batches without targets ({held})"
        )


class MetricTally:
    """Accumulates a metric over a whole split.

    Args:
        task: task whose metric it is.

    Raises:
        UnknownNameError: there is no metric of this name.
    """

    def __init__(self, task: LearningTask) -> None:
        self._metric = task.metric
        self._total, self._count = 0.0, 0.0
        self._kept: Metric | RecallAtOne | None = None
        if isinstance(self._metric, str):
            check_metric_name(self._metric)

    def add(self, outputs: object, targets: object, loss: float | None, count: int) -> None:
        """Add one batch."""
        metric = self._metric
        if metric is None or metric == "perplexity":
            self._total += (0.0 if loss is None else loss) * count
            self._count += count
            return
        if isinstance(metric, str) or hasattr(metric, "update"):
            self._kept = self._kept or _torchmetric(metric, outputs, targets)
            self._kept.update(*_as_metrics_take(metric, outputs, targets))
            return
        values = metric(outputs, targets)
        if isinstance(values, torch.Tensor):
            values = values.detach().double().cpu().numpy()
        self._total += float(numbers_from(values).mean()) * count
        self._count += count

    def gather(self, summed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add the sums of other processes; torchmetrics synchronises by itself."""
        if self._kept is None:
            totals = torch.tensor([self._total, float(self._count)], dtype=torch.float64)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._total, self._count = summed(totals.to(device)).tolist()

    def value(self) -> float:
        """The metric over all batches."""
        if self._kept is not None:
            found = self._kept.compute()
            found = found["map"] if isinstance(found, Mapping) else found
            self._kept.reset()
            return float(found)
        mean = self._total / max(1, self._count)
        return float(torch.tensor(mean).exp()) if self._metric == "perplexity" else mean


def _torchmetric(metric: str | Metric, outputs: object, targets: object) -> Metric | RecallAtOne:
    """A metric of torchmetrics for the outputs' number of classes, on their device."""
    if not isinstance(metric, str):
        metric.reset()
        return metric
    if metric == "recall1":
        return RecallAtOne()
    with contextlib.suppress(UnknownNameError):
        import_torchvision(metric)  # torchmetrics imports it, and fails if it does not load
    try:
        import torchmetrics
        from torchmetrics import detection, text
    except ModuleNotFoundError as error:
        raise DataError(
            f"metric {metric!r}: needs torchmetrics; pip install 'secateurs[metrics]', or pass a "
            "function of (outputs, targets)"
        ) from error
    if metric == "map":
        return _mean_average_precision(detection)
    if metric == "wer":
        return text.WordErrorRate()
    device = scores_of(outputs).device
    if metric in ("mse", "mae"):
        kind = torchmetrics.MeanSquaredError if metric == "mse" else torchmetrics.MeanAbsoluteError
        return kind().to(device)
    classes = scores_of(outputs).shape[1]
    places = targets.dim() if isinstance(targets, torch.Tensor) else 1
    # Ignored are tokens of -100 and pixels of 255: a vocabulary may well have a token 255.
    ignored = None if places == 1 else IGNORED if places == 2 else 255
    if metric == "iou":
        jaccard = torchmetrics.classification.MulticlassJaccardIndex
        return jaccard(num_classes=classes, ignore_index=ignored).to(device)
    if metric == "f1":
        return torchmetrics.F1Score(
            "multiclass", num_classes=classes, average="macro", ignore_index=ignored
        ).to(device)
    top = min(5 if metric == "top5" else 1, classes)
    return torchmetrics.Accuracy(
        "multiclass", num_classes=classes, average="micro", top_k=top, ignore_index=ignored
    ).to(device)


def _mean_average_precision(detection: ModuleType) -> Metric:
    """Mean average precision, by whichever of two supported packages is installed."""
    for backend in ("pycocotools", "faster_coco_eval"):
        try:
            metric: Metric = detection.MeanAveragePrecision(backend=backend)
            return metric
        except ModuleNotFoundError as error:
            reason = error
    raise DataError(
        "metric 'map': needs a package that counts boxes; pip install 'secateurs[metrics]' (or: "
        "pip install torchmetrics pycocotools), or pass a function of (outputs, targets)"
    ) from reason


def _as_metrics_take(
    metric: str | Metric, outputs: object, targets: object
) -> tuple[object, object]:
    is_named = isinstance(metric, str) and metric not in ("map", "wer", "recall1")
    if not is_named or not isinstance(targets, torch.Tensor):
        return outputs, targets
    scores = scores_of(outputs).float()
    if metric in ("mse", "mae"):
        return match_shape(targets, scores), targets.float()
    return scores, targets
