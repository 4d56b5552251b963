"""Answers of the dense network with some channels gone and some weights changed, many times over.

Nothing changes before the first operation that a trial touches: up to there all trials share one
pass, and each goes on from there by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.channels.network import Network
from secateurs.planning.error_curves import Trial
from secateurs.pytorch.proof.masked_twin import MaskedTwin
from secateurs.pytorch.reconstruction.output_stream import as_arrays
from secateurs.pytorch.reconstruction.program import Piece, Pieces, play
from secateurs.pytorch.replay.tape import Step
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_call import Call, map_tensors
from secateurs.reconstruction.fidelity import Fidelity
from secateurs.reconstruction.playing import play_trials


def judge_trials(
    network: Network,
    images: CalibrationBatch,
    trials: Sequence[Trial],
    kind: str,
    tick: Callable[[], None] = lambda: None,
) -> list[Fidelity]:
    """How faithful the network is in each trial, on these images.

    Args:
        network: of the dense model, which stays as it is.
        images: to judge by.
        trials: what goes and what changes in each.
        kind: of the outputs.
        tick: called after each trial on each piece of the images.
    """
    source = source_of(network)
    pieces = Pieces(source.model, source.operations, images)
    players = [_Player(network, trial, pieces.steps) for trial in trials]
    passes = (pieces.piece(images.rows(rows)) for rows in pieces.sizes(len(images)))
    with torch.no_grad():
        return play_trials(passes, _answers, players, kind, tick)


def _answers(piece: Piece) -> list[NDArray[np.float32]]:
    return as_arrays(piece.result())


class _Player:
    """One trial: from where on, and what is done instead."""

    def __init__(self, network: Network, trial: Trial, steps: Sequence[Step]) -> None:
        source = source_of(network)
        self._trial = trial
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
        """The rest of a pass; returns what the model would."""
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

        return as_arrays(play(rest, change))
