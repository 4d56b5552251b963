"""Removing channels one at a time: the interface to a framework, and sums of the effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.ablation import Ablation, AblationSums
from secateurs.calibration.batches import CalibrationBatch, as_array
from secateurs.channels.arrays import Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network


class DenseRun(Protocol):
    """The dense network's run on one batch. Arrays may be tensors of any framework."""

    @property
    def labels(self) -> Any:
        """Labels of the images, or None."""

    @property
    def losses(self) -> Any:
        """Loss of each image."""

    @property
    def right(self) -> Any:
        """Which images are classified right; None if labels are not classes."""

    @property
    def classes(self) -> int:
        """Number of classes that the outputs score; 0 if labels are not classes."""


AnyRun = TypeVar("AnyRun", bound=DenseRun)


class LossChanges(Protocol):
    """Effects of removed channels on each image. Arrays may be tensors of any framework."""

    @property
    def loss(self) -> Any:
        """Change of the loss, shape (channels, images), in double precision."""

    @property
    def right(self) -> Any:
        """1 where an image is now classified right and was not before, -1 the other way round."""


class Removals(Protocol[AnyRun]):
    """Removes channels of a network one at a time."""

    def dense(self, batch: CalibrationBatch) -> AnyRun:
        """Run the dense network on a batch."""

    def ablate(
        self, dense: AnyRun, group: Group, channels: Ids, where: NDArray[np.bool_] | None = None
    ) -> LossChanges:
        """Remove each of these channels of a group, alone, on the batch of that run.

        If ``where``, shape (channels, images), is given, only the entries it marks must be valid.
        """

    def slopes(self, dense: AnyRun) -> Sums:
        """Derivative of each image's loss by each atom's gate, shape (images, atoms)."""

    def supports_subsets(self, group: Group) -> bool:
        """Whether the cost scales with the number of images."""

    def cost_per_image(self, group: Group) -> float:
        """Relative cost of removing one of the group's channels on one image."""


class ExactAblation(Generic[AnyRun]):
    """Removes every channel on every image, batch by batch.

    Args:
        network: as traced.
        removals: function that prepares the removal of channels from the first batch.
    """

    def __init__(
        self, network: Network, removals: Callable[[CalibrationBatch], Removals[AnyRun]]
    ) -> None:
        self._network = network
        self._make = removals
        self._removals: Removals[AnyRun] | None = None
        self._tally: AblationSums | None = None

    def add(self, batch: CalibrationBatch) -> None:
        """Process one batch."""
        if self._removals is None:
            self._removals = self._make(batch)
        dense = self._removals.dense(batch)
        if self._tally is None:
            self._tally = AblationSums(self._network, dense.classes)
        tally_dense_(self._tally, dense)
        for group in self._network.groups:
            every = np.arange(len(group))
            changes = self._removals.ablate(dense, group, every)
            tally_changes_(self._tally, dense, group, every, changes)

    def ablation(self) -> Ablation:
        """The ablation over all batches."""
        return (self._tally or AblationSums(self._network, 0)).ablation()


def tally_dense_(tally: AblationSums, dense: DenseRun) -> None:
    """Add the dense network's results on one batch."""
    right = None if dense.right is None else as_array(dense.right)
    tally.add_dense(as_array(dense.losses).astype(np.float64), right, _labels(dense))


def tally_changes_(
    tally: AblationSums,
    dense: DenseRun,
    group: Group,
    channels: Ids,
    changes: LossChanges,
    where: NDArray[np.bool_] | None = None,
) -> None:
    """Add the effects of removed channels on a batch, or on the images that ``where`` marks."""
    loss, right = as_array(changes.loss), as_array(changes.right)
    tally.add(group.name, channels, loss, right, _labels(dense), where)


def _labels(dense: DenseRun) -> Ids | None:
    """Classes of the images, if labels are classes."""
    return as_array(dense.labels) if dense.classes and dense.labels is not None else None
