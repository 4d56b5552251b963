"""Trials: outputs of the dense network with channels removed and weights changed.

A trial changes nothing before the first step that it affects, so all trials share one forward pass
up to there, and each continues separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.backends import Loss
from secateurs.calibration.batches import CalibrationBatch
from secateurs.channels.network import Network
from secateurs.keras.internals import AssumedValues, Operation, Variable, without_gradients
from secateurs.keras.model.tensors import named_variables
from secateurs.keras.proof.masked_twin import Kept, MaskedTwin, stand_ins_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.reconstruction.program import GraphStep, Piece, Pieces, as_numbers
from secateurs.keras.statistics.loss import PerExampleLoss
from secateurs.keras.trace_model import source_of
from secateurs.keras.tracing.interpreter import CallSite
from secateurs.planning.error_curves import GroupTrial
from secateurs.reconstruction.fidelity import Fidelity
from secateurs.reconstruction.playing import play_trials


def judge_trials(
    network: Network,
    images: CalibrationBatch,
    trials: Sequence[GroupTrial],
    kind: str,
    tick: Callable[[], None] = lambda: None,
    *,
    loss: Loss | None = None,
) -> list[Fidelity]:
    """Measure how faithful the network is in each trial, on these images.

    Args:
        network: trace of the dense model, which is unchanged.
        images: images to measure on.
        trials: removed channels and changed weights of each trial.
        kind: kind of the outputs.
        tick: called after each trial on each piece of the images.
        loss: function (outputs, labels) -> losses of shape (images,); None compares the outputs.

    Raises:
        DataError: the loss does not fit the outputs and labels.
    """
    source = source_of(network)
    pieces = Pieces(source.model, source.operations, images)
    steps = pieces.program(2).steps
    read = _read_outputs if loss is None else _Losses(loss, source.model)
    players = [_Player(network, trial, steps, read) for trial in trials]
    passes = (pieces.piece(images.rows(rows)) for rows in pieces.sizes(len(images)))
    with without_gradients():
        return play_trials(passes, read, players, kind, tick)


ReadPiece = Callable[[Piece], list[NDArray[np.float32]]]
"""Function that reads the results of a completed pass."""


def _read_outputs(piece: Piece) -> list[NDArray[np.float32]]:
    return [as_numbers(one) for one in piece.result()]


class _Losses:
    """The losses of a finished pass, one for each image."""

    def __init__(self, loss: Loss, model: keras.Model) -> None:
        self._objective = PerExampleLoss(loss, "error curves", model)

    def __call__(self, piece: Piece) -> list[NDArray[np.float32]]:
        outputs = piece.outputs()
        labels = self._objective.check_labels([one.shape for one in outputs], piece.labels)
        tensor = None if labels is None else keras.ops.convert_to_tensor(labels)
        return [as_numbers(self._objective.losses(outputs, tensor))]


class _Player:
    """One trial: the step it starts at, and what it changes from there."""

    def __init__(
        self, network: Network, trial: GroupTrial, steps: Sequence[GraphStep], read: ReadPiece
    ) -> None:
        self._source = source_of(network)
        self._trial = trial
        self._read = read
        self._kept = Kept(network.solution.mark_kept(network.alive(trial.removed)))
        self._network = network
        self._layers: dict[int, Operation] | None = None
        self._zeroed = [
            (leaf, axis)
            for (_, axis), leaf in self._source.read.items()
            if (units := leaf.axes.get(axis)) is not None and not self._kept.stays[units].all()
        ]
        changed = {id(self._source.leaves[name].variable) for name in trial.weights}
        changed |= {id(leaf.variable) for leaf, _ in self._zeroed}
        self.first = next((step.number for step in steps if self._touches(step, changed)), -1)

    def _touches(self, step: GraphStep, changed: set[int]) -> bool:
        operation = self._source.operations[step.operation]
        if any(not self._kept.stays[mask.units].all() for mask in operation.masks):
            return True
        if operation.mixes and not all(self._kept.all(axes) for _, axes in operation.inputs):
            return True
        layer, operands = step.part.layer, step.operands
        variables = [one for one in operands if isinstance(one, Variable)]
        if hasattr(layer, "variables"):
            variables += [variable for _, variable, _ in named_variables(layer, "")]
        return any(id(variable) in changed for variable in variables)

    def play(self, rest: Piece) -> list[NDArray[np.float32]]:
        """Run the rest of a pass and return the values to compare."""
        if self._layers is None:
            self._layers = self._stand_ins()
        twin = MaskedTwin(self._source.operations, self._kept, self._layers)
        mapping = [
            (self._source.leaves[name].variable, values) for name, values in self._values().items()
        ]
        tensors = [
            (variable, keras.ops.convert_to_tensor(values, dtype=variable.dtype))
            for variable, values in mapping
        ]
        with AssumedValues(state_mapping=tensors):
            for step in rest.steps[rest.done :]:
                rest.keep(step, self._run_step(twin, rest, step))
                rest.forget(step)
        return self._read(rest)

    def _run_step(self, twin: MaskedTwin, piece: Piece, step: GraphStep) -> list[BackendTensor]:
        operation = self._source.operations[step.operation]
        if not (operation.masks or operation.mixes) or not step.is_whole:
            return step.run(piece.find)
        arguments, keywords = keras.tree.map_structure(
            piece.find, (list(step.arguments), dict(step.keywords))
        )
        site = CallSite(step.operation, operation.layer, step.part.layer)
        return list(keras.tree.flatten(twin.do(operation, site, arguments, keywords)))

    def _stand_ins(self) -> dict[int, Operation]:
        """Rebuild the layers of calls that mix channels, for the kept channels."""
        gone = {
            group.name: np.flatnonzero(np.isin(group.channels, self._trial.removed))
            for group in self._network.groups
        }
        cut = self._network.cut({name: rows for name, rows in gone.items() if len(rows)})
        return stand_ins_of(self._source, cut, self._kept)

    def _values(self) -> dict[str, NDArray[np.generic]]:
        """Return the values of changed tensors: refitted, and zero where they read removed ones."""
        values = {name: np.asarray(one) for name, one in self._trial.changes().items()}
        for leaf, axis in self._zeroed:
            present = values.get(leaf.name)
            numbers = leaf.array() if present is None else present
            units = leaf.axes[axis]
            stays = self._kept.along_axis(units, len(leaf.shape), axis)
            values[leaf.name] = np.where(stays, numbers, np.zeros_like(numbers))
        return values
