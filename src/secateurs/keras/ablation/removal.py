"""Run a network without one channel, many times over.

A channel is removed by setting the gates on all its consumers' inputs to zero. On TensorFlow and
PyTorch, calls before the first consumer are reused from one dense run; on JAX, a program compiled
once runs the whole network. For channels that an operation mixes (a layer normalisation), the
masked twin is run instead, which normalises the kept channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.statistics import Gates, channel_index
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group
from secateurs.keras.internals import compile_function
from secateurs.keras.proof.comparison import outputs_without
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.collector import Pass
from secateurs.keras.statistics.loss import as_classes
from secateurs.keras.tracing.interpreter import CallSite, RunStep

Sums = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class DenseBatch:
    """The dense network's run on one batch.

    Attributes:
        batch: the batch.
        arrays: flat list of the model's inputs.
        targets: labels as the loss takes them.
        saved: outputs of every call; None where they are not reused.
        losses: loss of each image, shape (images,).
        right: 1 for each image classified correctly, else 0, shape (images,); None where labels are
            not classes.
        classes: number of classes; 0 where labels are not classes.
    """

    batch: CalibrationBatch
    arrays: Sequence[NDArray[np.generic]]
    targets: BackendTensor | None
    saved: Saved | None
    losses: Sums
    right: Sums | None
    classes: int

    @property
    def labels(self) -> NDArray[np.generic] | None:
        """Labels of the images, if there are any."""
        return self.batch.labels


@dataclass(frozen=True, eq=False, slots=True)
class Changes:
    """Effects of removing channels, image by image.

    Attributes:
        loss: change of the loss, shape (channels, images).
        right: 1 where an image becomes correctly classified, -1 where it no longer is, else 0; of
            shape (channels, images).
    """

    loss: Sums
    right: Sums


class Removals:
    """Removes channels of a network one at a time and measures the change of each image's loss.

    Args:
        work: pass over the same network, which knows where channels are read.
    """

    def __init__(self, work: Pass) -> None:
        self._work = work
        self._network = work.network
        self._evaluated = compile_function(self._evaluate)
        mixed = [np.unique(self._network.solution.atoms[m.units]) for m in self._network.mixings]
        self._mixed = {
            group.name
            for group in self._network.groups
            if len(group) > 1 and any(np.isin(group.channels, atoms).any() for atoms in mixed)
        }

    def dense(self, batch: CalibrationBatch) -> DenseBatch:
        """The dense network's run on a batch."""
        arrays, targets = self._work.arrays(batch), self._work.labels(batch)
        saved = None if self._runs_whole else Saved()
        losses, outputs = self._run_gated(self._open(), arrays, targets, saved)
        scores = _numpy(outputs[0])
        right = self._right(outputs, batch)
        classes = 0 if right is None else self._work.objective.classes(scores.shape)
        return DenseBatch(batch, arrays, targets, saved, losses, right, classes)

    def slopes(self, dense: DenseBatch) -> Sums:
        """Gradients of each image's loss with respect to a gate on each atom; (images, atoms)."""
        gates = Gates(self._network.solution)
        return np.concatenate([gates.terms(slopes) for slopes in self._work.slopes(dense.batch)])

    def ablate(
        self, dense: DenseBatch, group: Group, channels: Ids, where: NDArray[np.bool_] | None = None
    ) -> Changes:
        """Remove each of these channels of a group, one at a time, on a batch.

        Args:
            dense: results of the dense network on the batch.
            group: group of the channels.
            channels: indices of the channels to remove.
            where: images on which changes are wanted, shape (channels, images). Ignored: all are
                computed.
        """
        changes = Changes(*np.zeros((2, len(channels), len(dense.losses))))
        for place, channel in enumerate(channels.tolist()):
            losses, outputs = self._without(dense, group, channel)
            changes.loss[place] = losses - dense.losses
            right = self._right(outputs, dense.batch)
            if right is not None and dense.right is not None:
                changes.right[place] = right - dense.right
        return changes

    def supports_subsets(self, group: Group) -> bool:
        """Whether cost scales with the number of images: never."""
        return False

    def cost_per_image(self, group: Group) -> float:
        """Relative cost of removing one of the group's channels on one image."""
        calls = len(self._work.source.operations)
        if self._runs_whole or group.name in self._mixed:
            return 1.0 + calls
        first = min((self._close_(self._open(), group, n) for n in range(len(group))), default=0)
        return 1.0 + calls - first

    @property
    def _runs_whole(self) -> bool:
        """Whether the whole network runs as one compiled program."""
        return bool(keras.backend.backend() == "jax")

    def _without(
        self, dense: DenseBatch, group: Group, channel: int
    ) -> tuple[Sums, Sequence[BackendTensor]]:
        """Return (loss of each image, outputs) without a channel."""
        if group.name in self._mixed:
            return self._by_twin(dense, group, channel)
        gates = self._open()
        first = self._close_(gates, group, channel)
        if dense.saved is not None:
            dense.saved.until = first
        return self._run_gated(gates, dense.arrays, dense.targets, dense.saved)

    def _by_twin(
        self, dense: DenseBatch, group: Group, channel: int
    ) -> tuple[Sums, Sequence[BackendTensor]]:
        cut = self._network.cut({group.name: [channel]})
        without = outputs_without(self._network, cut, list(dense.arrays))
        outputs = [keras.ops.convert_to_tensor(output) for output in without]
        losses = self._work.objective.losses(outputs, dense.targets)
        return _numpy(losses).astype(np.float64), outputs

    def _right(self, outputs: Sequence[BackendTensor], batch: CalibrationBatch) -> Sums | None:
        """Return 1 for each correctly classified image, else 0; None if labels are not classes."""
        objective, labels, shape = self._work.objective, batch.labels, tuple(outputs[0].shape)
        if labels is not None and len(shape) == 2:
            labels = as_classes(labels, objective.classes(shape), shape[:-1])
        right = objective.right(outputs, labels)
        return None if right is None else right.astype(np.float64)

    def _open(self) -> list[NDArray[np.float32]]:
        """Return gates of ones."""
        return [np.ones((1, width), np.float32) for width in self._work.widths]

    def _close_(self, gates: list[NDArray[np.float32]], group: Group, channel: int) -> int:
        """Zero the gates of a channel; return the index of the first call that reads it."""
        for gate, reading in zip(gates, self._work.readings, strict=True):
            part = channel_index(self._network, group, reading.units)
            gate[0, part.index[part.channel == channel]] = 0
        steps = [
            read.place.step for read in self._work.reads.values() if not gates[read.number].all()
        ]
        return min(steps, default=len(self._work.source.operations))

    def _run_gated(
        self,
        gates: Sequence[NDArray[np.float32]],
        arrays: Sequence[NDArray[np.generic]],
        targets: BackendTensor | None,
        saved: Saved | None,
    ) -> tuple[Sums, Sequence[BackendTensor]]:
        losses, outputs = self._evaluated(gates, arrays, targets, self._work.values, saved)
        return _numpy(losses).astype(np.float64), outputs

    def _evaluate(
        self,
        gates: Sequence[NDArray[np.float32]],
        arrays: Sequence[NDArray[np.generic]],
        targets: BackendTensor | None,
        values: Sequence[BackendTensor],
        saved: Saved | None,
    ) -> tuple[BackendTensor, list[BackendTensor]]:
        tensors = [keras.ops.convert_to_tensor(gate) for gate in gates]
        around = None if saved is None else saved.around
        outputs = self._work.run_gated(tensors, arrays, values, around)
        return self._work.objective.losses(outputs, targets), outputs


class Saved:
    """Cache of the outputs of every call in a dense run, reused by later runs.

    Attributes:
        until: index of the first call to run; outputs before it are reused. None runs all calls and
            caches their outputs.
    """

    def __init__(self) -> None:
        self.until: int | None = None
        self._given: dict[int, object] = {}

    def around(
        self,
        step: RunStep,
        site: CallSite,
        arguments: Sequence[object],
        keywords: dict[str, object],
    ) -> object:
        """Run a call of the graph, or return its cached output."""
        if self.until is not None:
            if site.index < self.until:
                return self._given[site.index]
            return step(site, arguments, keywords)
        self._given[site.index] = step(site, arguments, keywords)
        return self._given[site.index]


def _numpy(tensor: BackendTensor) -> NDArray[np.floating]:
    return np.asarray(keras.ops.convert_to_numpy(tensor))
