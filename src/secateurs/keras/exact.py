"""Ablation in full: every channel removed on every image, class by class.

A channel is removed by a gate of zero on all that consumers read of it. On TensorFlow and PyTorch
everything before its first consumer is taken from one dense run; on JAX one program, compiled once,
runs the whole network. Where an operation mixes channels (a layer normalisation), the masked twin
is run in their place: it normalises what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.network import Group
from secateurs.criteria.ablations import Ablation, Tally
from secateurs.criteria.calibration import Batch
from secateurs.criteria.gathered import part_of
from secateurs.keras.counted import Site
from secateurs.keras.internals import compiled
from secateurs.keras.proof import outputs_without

if TYPE_CHECKING:
    from secateurs.keras.gather import Pass

Sums = NDArray[np.float64]


class ExactAblation:
    """Removes every channel on every image, batch by batch.

    Args:
        work: the pass it is part of, which knows what is read where.
    """

    def __init__(self, work: Pass) -> None:
        self._work = work
        self._network = work.network
        self._evaluated = compiled(self._evaluate)
        mixed = [np.unique(self._network.solution.atoms[m.units]) for m in self._network.mixings]
        self._mixed = {
            group.name
            for group in self._network.groups
            if len(group) > 1 and any(np.isin(group.channels, atoms).any() for atoms in mixed)
        }
        self._tally: Tally | None = None

    def add(self, batch: Batch) -> None:
        """One batch."""
        work = self._work
        arrays, labels = work.arrays(batch), work.labels(batch)
        saved = Saved() if keras.backend.backend() != "jax" else None
        dense, right = self._run(arrays, labels, batch, None, saved)
        if self._tally is None:
            classes = 0 if right is None else work.source.model.outputs[0].shape[-1]
            self._tally = Tally(self._network, classes)
        self._tally.add_dense(dense, right, batch.labels)
        for group in self._network.groups:
            loss, correct = np.zeros((2, len(group), len(batch)))
            for channel in range(len(group)):
                losses, now = self._run(arrays, labels, batch, (group, channel), saved)
                loss[channel] = losses - dense
                if right is not None and now is not None:
                    correct[channel] = now - right
            self._tally.add(group.name, np.arange(len(group)), loss, correct, batch.labels)

    def ablation(self) -> Ablation:
        """All of it."""
        return (self._tally or Tally(self._network, 0)).ablation()

    def _run(
        self,
        arrays: Sequence[Any],
        labels: Any,
        batch: Batch,
        gone: tuple[Group, int] | None,
        saved: Saved | None,
    ) -> tuple[Sums, Sums | None]:
        """(each image's loss, 1 where it is classified right) without a channel."""
        if gone is not None and gone[0].name in self._mixed:
            losses, outputs = self._by_twin(arrays, labels, *gone)
            return self._judged(losses, outputs, batch)
        gates = [np.ones((1, width), np.float32) for width in self._work.widths]
        first = None
        if gone is not None:
            first = self._close_(gates, *gone)
        if saved is not None:
            saved.until = first
        losses, outputs = self._evaluated(gates, arrays, labels, self._work.values, saved)
        return self._judged(losses, outputs, batch)

    def _by_twin(
        self, arrays: Sequence[Any], labels: Any, group: Group, channel: int
    ) -> tuple[Any, list[Any]]:
        cut = self._network.cut({group.name: [channel]})
        without = outputs_without(self._network, cut, list(arrays))
        outputs = [keras.ops.convert_to_tensor(output) for output in without]
        return self._work.objective.losses(outputs, labels), outputs

    def _judged(
        self, losses: Any, outputs: Sequence[Any], batch: Batch
    ) -> tuple[Sums, Sums | None]:
        scores = np.asarray(keras.ops.convert_to_numpy(outputs[0]))
        right = None
        if self._work.objective.classifies(scores.shape, batch.labels) and len(outputs) == 1:
            right = (scores.argmax(axis=1) == batch.labels).astype(np.float64)
        return np.asarray(keras.ops.convert_to_numpy(losses), np.float64), right

    def _close_(self, gates: list[NDArray[Any]], group: Group, channel: int) -> int:
        """Zero the gates of a channel; the number of the call that reads it first."""
        for gate, reading in zip(gates, self._work.readings, strict=True):
            part = part_of(self._network, group, reading.units)
            gate[0, part.index[part.channel == channel]] = 0
        steps = [
            read.place.step for read in self._work.reads.values() if not gates[read.number].all()
        ]
        return min(steps, default=len(self._work.source.operations))

    def _evaluate(
        self,
        gates: Sequence[Any],
        arrays: Sequence[Any],
        labels: Any,
        values: Sequence[Any],
        saved: Saved | None,
    ) -> tuple[Any, list[Any]]:
        tensors = [keras.ops.convert_to_tensor(gate) for gate in gates]
        around = None if saved is None else saved.around
        outputs = self._work.gated(tensors, arrays, values, around)
        return self._work.objective.losses(outputs, labels), outputs


class Saved:
    """What every call of a dense run gave; later runs take it from here up to some call.

    Attributes:
        until: the number of the first call to be run; None saves all of them.
    """

    def __init__(self) -> None:
        self.until: int | None = None
        self._given: dict[int, Any] = {}

    def around(
        self, step: Any, site: Site, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> Any:
        """One call of the graph."""
        if self.until is not None:
            if site.index < self.until:
                return self._given[site.index]
            return step(site, arguments, keywords)
        self._given[site.index] = step(site, arguments, keywords)
        return self._given[site.index]
