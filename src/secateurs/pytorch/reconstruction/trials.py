"""Trials: outputs of the dense network with channels removed and weights changed.

Nothing changes before the first operation that a trial affects: up to there all trials share one
pass, and each branches off from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.backends import Loss
from secateurs.calibration.batches import CalibrationBatch
from secateurs.channels.network import Network
from secateurs.planning.error_curves import GroupTrial
from secateurs.pytorch.proof.masked_twin import MaskedTwin
from secateurs.pytorch.reconstruction.output_stream import as_arrays
from secateurs.pytorch.reconstruction.program import Piece, Pieces, play
from secateurs.pytorch.replay.tape import Step
from secateurs.pytorch.statistics.loss import PerExampleLoss, labels_on_device
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_call import Call, map_tensors
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
        network: network of the dense model; unchanged.
        images: evaluation images.
        trials: channels removed and weights changed in each trial.
        kind: kind of the outputs.
        tick: called after each trial on each piece of the images.
        loss: (outputs, labels) -> one loss for each image; None compares the outputs themselves.

    Raises:
        DataError: the loss does not fit the outputs and labels.
    """
    source = source_of(network)
    pieces = Pieces(source.model, source.operations, images)
    read = _answers if loss is None else _Losses(loss, source.model)
    players = [_Player(network, trial, pieces.steps, read) for trial in trials]
    passes = (pieces.piece(images.rows(rows)) for rows in pieces.sizes(len(images)))
    with torch.no_grad():
        return play_trials(passes, read, players, kind, tick)


ReadPiece = Callable[[Piece], list[NDArray[np.float32]]]
"""Extracts the values to compare from a finished pass."""


def _answers(piece: Piece) -> list[NDArray[np.float32]]:
    return as_arrays(piece.result())


class _Losses:
    """The losses of a finished pass, one for each image."""

    def __init__(self, loss: Loss, model: nn.Module) -> None:
        self._objective = PerExampleLoss(loss, "error curves")
        self._model = model

    def __call__(self, piece: Piece) -> list[NDArray[np.float32]]:
        labels = labels_on_device(piece.labels, self._model)
        outputs = piece.outputs()
        if isinstance(outputs, dict):
            outputs = _NamedOutputs(outputs)
        return as_arrays([self._objective.losses(outputs, labels)])


class _NamedOutputs(dict[object, object]):
    """Outputs accessible by name, attribute and index, like those of Transformers.

    A tape keeps a dictionary's entries, not its class.
    """

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __getitem__(self, key: object) -> object:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class _Player:
    """One trial: the step it starts at, and what it changes from there."""

    def __init__(
        self, network: Network, trial: GroupTrial, steps: Sequence[Step], read: ReadPiece
    ) -> None:
        source = source_of(network)
        self._trial = trial
        self._read = read
        self._operations = source.operations
        self._stays = network.solution.mark_kept(network.alive(trial.removed))
        self._twin = MaskedTwin(source.operations, self._stays)
        self._tensors: Mapping[str, torch.Tensor] = source.tensors
        changed = {id(source.tensors[name]) for name in trial.weights}
        self.first = next((step.number for step in steps if self._touches(step, changed)), -1)

    def _touches(self, step: Step, changed: set[int]) -> bool:
        operation = self._operations[step.number]
        axes = [mask.units for mask in operation.masks]
        axes += [units for _, of in operation.mixed for units in of.values()]
        if any(not self._stays[units].all() for units in axes):
            return True
        return any(id(one) in changed for one in step.operands if isinstance(one, torch.Tensor))

    def play(self, rest: Piece) -> list[NDArray[np.float32]]:
        """Run the rest of a pass and return the values to compare."""
        new: dict[int, torch.Tensor] = {}
        for name, values in self._trial.changes().items():
            present = self._tensors[name]
            new[id(present)] = torch.from_numpy(values).to(present.device, present.dtype)

        def put_new(tensor: torch.Tensor) -> torch.Tensor:
            return new.get(id(tensor), tensor)

        def change(step: Step, call: Call) -> object:
            if new:
                arguments = [map_tensors(value, put_new) for value in call.arguments]
                keywords = {
                    key: map_tensors(value, put_new) for key, value in call.keywords.items()
                }
                call = Call(call.function, arguments, keywords)
            operation = self._operations[step.number]
            if operation.masks or operation.mixed:
                return self._twin.ignoring_removed(call, operation)
            return call.function(*call.arguments, **call.keywords)

        play(rest, change)
        return self._read(rest)
