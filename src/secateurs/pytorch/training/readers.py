"""How a learner reads its data: as a classifier's labelled images, or as a task's own batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.calibration.examples import length_of, rows_of, split_of
from secateurs.calibration.padding import example_with_padding
from secateurs.errors import DataError
from secateurs.pytorch.training.batches import call_model, on_device
from secateurs.pytorch.training.processes import Processes
from secateurs.pytorch.training.random_numbers import seed_generators
from secateurs.settings.training import Training
from secateurs.training.any_feed import Again, AnyFeed
from secateurs.training.feed import Augmentation, Batch, Feed, Images, as_feed


class BatchReader(ABC):
    """Reads the batches of a kind of data, for a model.

    Args:
        model: the model.
        training: training settings.
        processes: processes that share each batch.
    """

    def __init__(self, model: nn.Module, training: Training, processes: Processes) -> None:
        self._model, self._training, self._processes = model, training, processes

    @abstractmethod
    def feed(self, source: object, name: str, batch_size: int) -> Feed:
        """The batches of a split.

        Args:
            source: data of the split, in arrays or batches.
            name: name of the split; only "train" is augmented.
            batch_size: batch size for arrays; a loader has its own.
        """

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Number of examples in this process's part of a batch."""

    @abstractmethod
    def select(self, batch: Batch, rows: NDArray[np.intp]) -> Batch:
        """Some of the examples, as part of the same whole batch."""

    @abstractmethod
    def on_device(self, batch: Batch) -> Any:
        """A batch's content as tensors on the training device."""

    @abstractmethod
    def read_first(self, feed: Feed, count: int) -> object:
        """The inputs of the first examples, as the model's forward takes them."""

    @abstractmethod
    def call(self, model: nn.Module, inputs: object) -> object:
        """Call a model on the training device with such inputs."""


class ImageReader(BatchReader):
    """Reads batches of labelled images.

    Attributes:
        dtype: dtype of the model's floating-point weights; None where there are several.
    """

    def __init__(self, model: nn.Module, training: Training, processes: Processes) -> None:
        super().__init__(model, training, processes)
        self.dtype = floating_dtype(model)

    def feed(self, source: object, name: str, batch_size: int) -> Feed:
        """The batches of a split, augmented for training only.

        Raises:
            DataError: there are fewer images in a batch of training than processes.
        """
        training = self._training
        augmentation = Augmentation(training.flip, training.shift)
        feed = as_feed(
            source,
            batch_size,
            training.seed,
            augmentation if name == "train" else Augmentation(),
            name,
            lambda epoch, number: seed_generators(training.seed, epoch, number),
            wide=self.dtype is torch.float64,
        )
        smallest = min(batch.whole for batch in [next(feed.in_order())])
        processes = self._processes.share.of
        if name == "train" and smallest < processes:
            raise DataError(
                f"{name}: expected batches of at least {processes} images, one a process; "
                f"received {smallest}"
            )
        return feed

    def count(self, batch: Batch) -> int:
        """Number of images in this process's part of a batch."""
        return len(batch.labels)

    def select(self, batch: Batch, rows: NDArray[np.intp]) -> Batch:
        """Some of the images, as part of the same whole batch."""
        return Batch(batch.images[rows], batch.labels[rows], batch.whole)

    def read_first(self, feed: Feed, count: int) -> object:
        """The first images, at most as many as the first batch has."""
        return self._move(next(feed.in_order()).images[:count])

    def call(self, model: nn.Module, inputs: object) -> object:
        """Call a model with images."""
        return model(inputs)

    def on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(images in the precision of the model's weights, labels) on the training device."""
        labels = torch.from_numpy(np.ascontiguousarray(batch.labels))
        return self._move(batch.images), labels.to(self._processes.device, non_blocking=True)

    def _move(self, images: Images) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        dtype = self.dtype if tensor.is_floating_point() else None
        return tensor.to(self._processes.device, dtype, non_blocking=True)


class TaskReader(BatchReader):
    """Reads batches of any structure, which ``Batch.images`` holds whole."""

    def feed(self, source: object, name: str, batch_size: int) -> Feed:
        """The batches of a split, never augmented."""
        seed = self._training.seed
        return AnyFeed(
            source,
            batch_size,
            seed,
            name,
            lambda epoch, number: seed_generators(seed, epoch, number),
        )

    def count(self, batch: Batch) -> int:
        """Number of examples in this process's part of a batch."""
        return length_of(batch.images)

    def select(self, batch: Batch, rows: NDArray[np.intp]) -> Batch:
        """Some of the examples, as part of the same whole batch."""
        some: Images = rows_of(batch.images, rows)  # type: ignore[assignment]
        return Batch(some, batch.labels, batch.whole)

    def on_device(self, batch: Batch) -> Any:
        """A batch in the same structure, with tensors on the training device."""
        return on_device(batch.images, self._processes.device)

    def read_first(self, feed: Feed, count: int) -> object:
        """The inputs of the first examples; of a single one, an example that has padding."""
        batch = next(feed.in_order())
        inputs, _ = split_of(batch.images)
        place = next(self._model.parameters()).device
        first = rows_of(inputs, range(min(count, batch.whole)))
        if count == 1:  # example inputs for the trace
            first = example_with_padding(first, Again(feed))
        some = on_device(first, place)
        return (some,) if isinstance(some, list) else some  # a list of images is one argument

    def call(self, model: nn.Module, inputs: object) -> object:
        """Call a model with inputs of any structure."""
        return call_model(model, on_device(inputs, self._processes.device))


def floating_dtype(model: nn.Module) -> torch.dtype | None:
    """The dtype of a model's floating-point weights; None where there are several."""
    found = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return found.pop() if len(found) == 1 else None
