"""Loss and metric for criteria, sensitivity and ablation: a task's, or the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from secateurs.backends import Loss, backend_named
from secateurs.calibration.batches import LABELS
from secateurs.calibration.examples import StepLoss, as_arrays, is_pair_in_list, split_of
from secateurs.calibration.padding import example_with_padding, two_texts
from secateurs.channels.network import Network
from secateurs.training.task import LearningTask, task_of

IGNORED = -100
"""Label that losses ignore, in both Transformers and PyTorch."""
_GATHERS = (list, tuple)
"""Containers of single examples, whose shapes may differ."""


def objective_of(
    network: Network,
    task: str | LearningTask | None,
    loss: Loss | None,
    metric: Any = None,
    data: Any = None,
) -> LearningTask | None:
    """The task by which a network is evaluated; None for cross-entropy and accuracy.

    Args:
        network: network to evaluate.
        task: name of a built-in task, or a task.
        loss: loss in place of the task's.
        metric: metric in place of the task's.
        data: data of the evaluation. Unless a loss or task is given, batches that arrays cannot
            hold, or that have labels beside named inputs, are passed to the model unchanged.

    Raises:
        UnknownNameError: there is no such task.
    """
    source: Any = network.source
    backend, model = backend_named(source.framework), source.model
    takes_model = source.framework == "pytorch" and takes_the_model(model, data, loss)
    if task is None and metric is None:
        if takes_model:
            return LearningTask(loss=loss)
        return None if loss is not None else backend.default_task(model, data)
    if task is None and loss is None and not takes_model:
        task = backend.default_task(model, data)
    if task is None:
        task = LearningTask() if takes_model else "classification"
    return task_of(task, backend.tasks_of(model), loss=loss, metric=metric)


def loss_of(
    network: Network, task: str | LearningTask | None, loss: Loss | None, data: Any = None
) -> Loss | None:
    """The loss only; see ``objective_of``."""
    found = objective_of(network, task, loss, data=data)
    return loss if found is None else loss_in(found, data)


def loss_in(task: LearningTask, data: Any = None) -> Loss | None:
    """A task's loss: a function of (outputs, targets) if that suffices, else a ``StepLoss``."""
    plain = task.loss is not None and task.predict is None and task.train_step is None
    needs_batch = _is_ragged(data) or _has_no_targets(data)
    return task.loss if plain and not needs_batch else StepLoss(task)


def inputs_to_trace(model: Any, example_inputs: Any, data: Any) -> Any:
    """Example inputs for tracing a model, so that outputs compare with those on calibration data.

    Optional labels are dropped: with labels a model also returns a loss, which is a single number
    for all examples. Example texts without padding are replaced by padded ones, and a single text
    by two, where there are calibration data; see ``example_with_padding`` and ``two_texts``.
    """
    if isinstance(example_inputs, Mapping):
        taken = inspect.signature(getattr(model, "forward", model.__call__)).parameters
        spare = [
            name
            for name in LABELS
            if name in example_inputs and name in taken and taken[name].default is None
        ]
        example_inputs = {
            name: value for name, value in example_inputs.items() if name not in spare
        }
    return example_inputs if data is None else two_texts(example_with_padding(example_inputs, data))


def kind_of_outputs(task: str | LearningTask | None) -> str | None:
    """Kind of outputs of a built-in task, for ``Judging.output``; None to infer it from values."""
    name = task if isinstance(task, str) else getattr(task, "name", "")
    return {"regression": "relative", "embedding": "embedding"}.get(name)


def label_tokens(task: str | LearningTask | None, data: Any) -> Any:
    """Add labels to data for language modelling that have none: their own tokens.

    Args:
        task: what the model is for; data of any other task are returned unchanged.
        data: rows of tokens, ``input_ids`` in a dictionary, or batches of either.

    Returns:
        The data with labels, which are -100 where ``attention_mask`` is 0.

    Example:
        >>> import numpy as np
        >>> rows = {"input_ids": np.array([[3, 7, 0]]), "attention_mask": np.array([[1, 1, 0]])}
        >>> label_tokens("language-modelling", rows)["labels"]
        array([[   3,    7, -100]])
    """
    if not _predicts_tokens(task):
        return data
    if hasattr(data, "shape") or isinstance(data, Mapping):
        return label_batch(task, data)
    # A tuple is one batch or whole arrays, and so is a list of two arrays.
    if isinstance(data, tuple) or is_pair_in_list(data):
        return data
    return _Labelled(task, data) if isinstance(data, Iterable) and isinstance(data, Sized) else data


def label_batch(task: str | LearningTask | None, batch: Any) -> Any:
    """Add labels to one batch, see ``label_tokens``: in the dictionary, or as (tokens, tokens)."""
    if not _predicts_tokens(task) or split_of(batch)[1] is not None:
        return batch
    tokens = split_of(batch)[0]
    if hasattr(tokens, "shape"):
        return tokens, tokens
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        return batch
    tokens, mask = batch["input_ids"], batch.get("attention_mask")
    shown = tokens if mask is None else tokens * mask + IGNORED * (1 - mask)
    return {**batch, "labels": shown}


def _predicts_tokens(task: str | LearningTask | None) -> bool:
    return (task if isinstance(task, str) else getattr(task, "name", "")) == "language-modelling"


class _Labelled:
    """Batches with labels added; can be iterated repeatedly."""

    def __init__(self, task: str | LearningTask | None, batches: Any) -> None:
        self._task, self._batches = task, batches

    def __iter__(self) -> Iterator[Any]:
        return (label_batch(self._task, batch) for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def takes_the_model(model: Any, data: Any, loss: Loss | None = None) -> bool:
    """Whether data can be used only by a step that has the model.

    This holds for batches whose inputs or targets are lists of examples, or dictionaries of
    targets; and, without a loss, for dictionaries with labels that the model takes, since it then
    returns its own loss.
    """
    if loss is not None:
        return _is_ragged(data)
    first = first_of(data)
    if not isinstance(first, Mapping):
        return False
    taken = inspect.signature(getattr(model, "forward", model.__call__)).parameters
    return any(name in first and name in taken for name in LABELS)


def _is_ragged(data: Any) -> bool:
    """Whether the first batch holds single examples instead of arrays."""
    first = first_of(data)
    if not isinstance(first, tuple | list):
        return False
    inputs, targets = split_of(first)
    return isinstance(inputs, list) or isinstance(targets, (*_GATHERS, Mapping))


def _has_no_targets(data: Any) -> bool:
    """Whether batches are inputs only, in which a task finds its targets."""
    first = first_of(data)
    return isinstance(first, Mapping) and split_of(first)[1] is None


def first_of(data: Any) -> Any:
    """The first batch of data that can be iterated repeatedly; None otherwise."""
    if isinstance(data, Mapping):
        return data
    whole = as_arrays(data)
    if isinstance(whole, Mapping):  # (inputs by name, labels)
        return whole
    if whole is not None or not (isinstance(data, Iterable) and isinstance(data, Sized)):
        return None
    return next(iter(data), None)
