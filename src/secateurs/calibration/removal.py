"""Removing channels one at a time: what a framework does for it, and the sums of what it found."""

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
    """A dense network's run on one batch. Arrays may be tensors of any framework."""

    @property
    def labels(self) -> Any:
        """Of the images; None where there are none."""

    @property
    def losses(self) -> Any:
        """Of the images."""

    @property
    def right(self) -> Any:
        """Which images are classified right; None where labels are not classes."""

    @property
    def classes(self) -> int:
        """How many classes the outputs score; 0 where labels are not classes."""


AnyRun = TypeVar("AnyRun", bound=DenseRun)


class LossChanges(Protocol):
    """What removing channels did, image by image. Arrays may be tensors of any framework."""

    @property
    def loss(self) -> Any:
        """Change of the loss, shape (channels, images), double."""

    @property
    def right(self) -> Any:
        """1 where an image is now classified right and was not, -1 the other way round."""


class Removals(Protocol[AnyRun]):
    """Removes channels of a network one at a time."""

    def dense(self, batch: CalibrationBatch) -> AnyRun:
        """The dense network's run on a batch."""

    def ablate(
        self, dense: AnyRun, group: Group, channels: Ids, where: NDArray[np.bool_] | None = None
    ) -> LossChanges:
        """Remove each of these channels of a group, alone, on the batch of that run.

        Where ``where``, of shape (channels, images), is given, only what it names has to be right.
        """

    def slopes(self, dense: AnyRun) -> Sums:
        """The derivative of each image's loss with respect to each atom's gate; (images, atoms)."""

    def supports_subsets(self, group: Group) -> bool:
        """Whether cost scales with the number of images."""

    def cost_per_image(self, group: Group) -> float:
        """Relative cost of removing one of the group's channels on one image."""


class ExactAblation(Generic[AnyRun]):
    """Removes every channel on every image, batch by batch.

    Args:
        network: as traced.
        removals: of it, made from the first batch.
    """

    def __init__(
        self, network: Network, removals: Callable[[CalibrationBatch], Removals[AnyRun]]
    ) -> None:
        self._network = network
        self._make = removals
        self._removals: Removals[AnyRun] | None = None
        self._tally: AblationSums | None = None

    def add(self, batch: CalibrationBatch) -> None:
        """One batch."""
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
        """All of it."""
        return (self._tally or AblationSums(self._network, 0)).ablation()


def tally_dense_(tally: AblationSums, dense: DenseRun) -> None:
    """Add the dense network on one batch."""
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
    """Add what removing channels did on that batch, or on the images that ``where`` names."""
    loss, right = as_array(changes.loss), as_array(changes.right)
    tally.add(group.name, channels, loss, right, _labels(dense), where)


def _labels(dense: DenseRun) -> Ids | None:
    """The images' classes, if they have any."""
    return as_array(dense.labels) if dense.classes and dense.labels is not None else None
