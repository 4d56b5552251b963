"""Ablation in full: every channel removed on every image, class by class."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.channels.labels import Ids
from secateurs.channels.network import Group, Network
from secateurs.criteria.ablations import Ablation
from secateurs.criteria.calibration import Batch
from secateurs.pytorch.objective import Objective
from secateurs.pytorch.removal import Changes, Dense, Removals

Sums = NDArray[np.float64]


class Tally:
    """Sums of what removing channels did, by class; memory does not grow with the images.

    Args:
        network: whose channels.
        classes: how many; 1 where labels are no classes.
    """

    def __init__(self, network: Network, classes: int) -> None:
        shapes = {group.name: (len(group), max(1, classes)) for group in network.groups}
        self.loss: dict[str, Sums] = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.correct: dict[str, Sums] = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.seen: dict[str, Ids] = {g.name: np.zeros(len(g), np.int64) for g in network.groups}
        self.images: Ids = np.zeros(max(1, classes), np.int64)
        self.dense_correct: Ids = np.zeros(max(1, classes), np.int64)
        self.dense_loss = 0.0
        self.classified = classes > 0

    def add_dense(self, dense: Dense) -> None:
        """The dense network on one batch."""
        member = self._members(dense)
        self.images += member.sum(axis=0).astype(np.int64)
        self.dense_loss += float(dense.losses.sum())
        if dense.right is not None:
            self.dense_correct += (dense.right.cpu().double().numpy() @ member).astype(np.int64)

    def add(self, dense: Dense, group: Group, channels: Ids, changes: Changes) -> None:
        """What removing some channels of a group did on that batch."""
        member = self._members(dense)
        self.loss[group.name][channels] += changes.loss.numpy() @ member
        self.correct[group.name][channels] += changes.right.double().numpy() @ member
        self.seen[group.name][channels] += len(dense)

    def mean(self, name: str) -> Sums:
        """Mean change of the loss, over the images that each channel was removed on."""
        mean: Sums = self.loss[name].sum(axis=1) / np.maximum(self.seen[name], 1)
        return mean

    def _members(self, dense: Dense) -> Sums:
        """1 where an image is of a class; (images, classes)."""
        if not self.classified or dense.labels is None:
            return np.ones((len(dense), 1))
        member = torch.nn.functional.one_hot(dense.labels.cpu(), len(self.images))
        found: Sums = member.double().numpy()
        return found


class ExactAblation:
    """Removes every channel on every image, batch by batch.

    Args:
        network: as traced.
        objective: the loss.
    """

    def __init__(self, network: Network, objective: Objective) -> None:
        self._network = network
        self._objective = objective
        self._removals: Removals | None = None
        self._tally: Tally | None = None

    def add(self, batch: Batch) -> None:
        """One batch."""
        if self._removals is None:
            self._removals = Removals(self._network, self._objective, batch)
        dense = self._removals.dense(batch)
        if self._tally is None:
            self._tally = Tally(self._network, dense.classes)
        self._tally.add_dense(dense)
        for group in self._network.groups:
            every = np.arange(len(group))
            self._tally.add(dense, group, every, self._removals.without(dense, group, every))

    def ablation(self) -> Ablation:
        """All of it."""
        tally = self._tally or Tally(self._network, 0)
        names = [group.name for group in self._network.groups]
        return Ablation(
            tally.loss,
            tally.correct,
            tally.images,
            tally.dense_loss / max(1, int(tally.images.sum())),
            tally.dense_correct,
            tally.seen,
            estimate={name: tally.mean(name) for name in names},
            error={name: np.zeros(len(tally.seen[name])) for name in names},
            classified=tally.classified,
        )
