"""Ablation in full: every channel removed on every image, class by class."""

from __future__ import annotations

import numpy as np

from secateurs.channels.labels import Ids
from secateurs.channels.network import Group, Network
from secateurs.criteria.ablations import Ablation, Tally
from secateurs.criteria.calibration import Batch
from secateurs.pytorch.objective import Objective
from secateurs.pytorch.removal import Changes, Dense, Removals


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
        tally_dense_(self._tally, dense)
        for group in self._network.groups:
            every = np.arange(len(group))
            changes = self._removals.without(dense, group, every)
            tally_changes_(self._tally, dense, group, every, changes)

    def ablation(self) -> Ablation:
        """All of it."""
        return (self._tally or Tally(self._network, 0)).ablation()


def tally_dense_(tally: Tally, dense: Dense) -> None:
    """Add the dense network on one batch."""
    right = None if dense.right is None else dense.right.cpu().numpy()
    tally.add_dense(dense.losses.detach().double().cpu().numpy(), right, _labels(dense))


def tally_changes_(
    tally: Tally, dense: Dense, group: Group, channels: Ids, changes: Changes
) -> None:
    """Add what removing channels did on that batch."""
    loss, right = changes.loss.numpy(), changes.right.numpy()
    tally.add(group.name, channels, loss, right, _labels(dense))


def _labels(dense: Dense) -> Ids | None:
    """The images' classes, if they have any."""
    return dense.labels.cpu().numpy() if dense.classes and dense.labels is not None else None
