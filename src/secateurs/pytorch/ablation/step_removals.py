"""Ablate channels for losses that take the model: a masked twin runs the task's step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._ops import OpOverload

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import ExampleBatch, as_given
from secateurs.calibration.statistics import Gates
from secateurs.channels.arrays import Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.pytorch.proof.masked_twin import MaskedTwin
from secateurs.pytorch.statistics.step_collector import as_losses, slopes_of_step
from secateurs.pytorch.statistics.steps import StepRunner
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_call import Arguments, Keywords


@dataclass(frozen=True, eq=False, slots=True)
class StepRun:
    """The dense network's steps on one batch.

    Attributes:
        examples: examples as batches of their own, on the model's device.
        losses: loss of each example, shape (examples,).
        labels: None: targets are left to the task.
        right: None; likewise.
        classes: 0; likewise.
    """

    examples: list[object]
    losses: torch.Tensor
    labels: None = None
    right: None = None
    classes: int = 0

    def __len__(self) -> int:
        return len(self.losses)


@dataclass(frozen=True, eq=False, slots=True)
class StepChanges:
    """Effects of removing channels, example by example.

    Attributes:
        loss: change of the loss, shape (channels, examples), double.
        right: zeros of the same shape.
    """

    loss: torch.Tensor
    right: torch.Tensor


class StepRemovals:
    """Removes channels of a network one at a time and measures the change of each step's loss.

    Args:
        network: the traced network; its model comes back exactly as it was.
        runner: runs the task's step.
    """

    def __init__(self, network: Network, runner: StepRunner) -> None:
        self.network = network
        self.runner = runner
        self.source = source_of(network)
        self._gates = Gates(network.solution)

    def dense(self, batch: CalibrationBatch) -> StepRun:
        """The dense network's steps on a batch."""
        given = ExampleBatch(as_given(batch))
        examples = self.runner.examples(given, self.source.model)
        return StepRun(examples, self.runner.losses(self.source.to_run(), given))

    def slopes(self, dense: StepRun) -> Sums:
        """Gradients of each example's loss with respect to gates on atoms; (examples, atoms)."""
        found = []
        for example in dense.examples:
            tape, records = self.runner.record(self.source, example)
            found.append(self._gates.terms(slopes_of_step(self.network, tape, records)))
        return np.concatenate(found)

    def ablate(
        self, dense: StepRun, group: Group, channels: Ids, where: NDArray[np.bool_] | None = None
    ) -> StepChanges:
        """Remove each of these channels of a group, one at a time, on a batch.

        Args:
            dense: dense network's steps on the batch.
            group: group of the channels.
            channels: indices of the channels in the group.
            where: mask of the examples to run, shape (channels, examples); None is all.
        """
        loss = torch.zeros((len(channels), len(dense)), dtype=torch.float64)
        for place, channel in enumerate(channels.tolist()):
            network = self.network
            stays = network.solution.mark_kept(network.alive([group.channels[channel]]))
            for number, example in enumerate(dense.examples):
                if where is None or where[place, number]:
                    loss[place, number] = self._loss_without(example, stays) - dense.losses[number]
        return StepChanges(loss, torch.zeros(loss.shape, dtype=torch.int8))

    def supports_subsets(self, group: Group) -> bool:
        """Whether cost scales with the number of examples: yes, since each is run alone."""
        del group
        return True

    def cost_per_image(self, group: Group) -> float:
        """Relative cost of removing one of the group's channels on one example."""
        del group
        return 1.0

    def _loss_without(self, example: object, stays: NDArray[np.bool_]) -> float:
        def run(training: bool) -> float:
            step = self.runner.step_on(example, training)
            twin = StepTwin(self.network, stays, step)
            return float(as_losses(twin.run(self.source.to_run(), [example], {}, training)))

        return self.runner.in_fitting_mode(run)


class StepTwin(MaskedTwin):
    """Runs a training step as if the removed channels did not exist.

    Args:
        network: the traced network.
        stays: mask of the units that are kept, shape (units,).
        step: step of the model, up to its loss.
    """

    def __init__(
        self,
        network: Network,
        stays: NDArray[np.bool_],
        step: Callable[[nn.Module], torch.Tensor],
    ) -> None:
        super().__init__(source_of(network).operations, stays)
        self.find_by_layer()
        self._step = step

    def call(self, model: nn.Module, arguments: Arguments, keywords: Keywords) -> object:
        del arguments, keywords
        return self._step(model)

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        """Run one operation of the model or of its loss, without sampling."""
        arguments, keywords = self.with_copies(function, arguments, keywords)
        name = str(function.overloadpacket)
        operation = None if self.is_outside else self._find_record(name)
        if operation is None:
            return function(*arguments, **keywords)
        return self.do(operation, function, arguments, keywords)
