"""Collect what criteria need from calibration data, in one pass over it."""

from __future__ import annotations

from functools import partial

import torch

from secateurs.backends import Loss
from secateurs.calibration.batches import iterate_batches
from secateurs.calibration.examples import StepLoss, iterate_examples
from secateurs.calibration.needs import Need
from secateurs.calibration.removal import ExactAblation
from secateurs.calibration.statistics import CalibrationStatistics
from secateurs.channels.network import Network
from secateurs.pytorch.ablation.removal import Removals
from secateurs.pytorch.ablation.step_removals import StepRemovals
from secateurs.pytorch.statistics.collector import Pass
from secateurs.pytorch.statistics.loss import PerExampleLoss
from secateurs.pytorch.statistics.step_collector import StepPass
from secateurs.pytorch.statistics.steps import StepRunner
from secateurs.pytorch.trace_model import source_of


@torch.inference_mode(mode=False)  # whatever the caller is in: gradients are taken
def collect_statistics(
    network: Network, needs: Need, data: object, *, loss: Loss | None = None, caller: str = "gather"
) -> CalibrationStatistics:
    """Collect the statistics that these needs ask for, in one pass and in bounded memory.

    Args:
        network: network made by ``trace``; its model comes back exactly as it was.
        needs: statistics to collect.
        data: calibration data in any form that ``secateurs.calibration.batches.iterate_batches``
            takes.
        loss: (outputs, labels) -> one loss for each image, shape (batch,); None is cross-entropy.
        caller: name of the caller, for messages.

    Raises:
        DataError: the data cannot be used; the message says why and what would help.
    """
    source = source_of(network)
    source.check_values(caller)
    if isinstance(loss, StepLoss):
        return _collect_by_steps(network, needs, data, loss, caller)
    objective = PerExampleLoss(loss, caller)
    labels = bool(needs & Need.LOSS) and objective.needs_labels
    stream = iterate_batches(data, source.example_inputs, caller, labels=labels)
    first = next(stream)  # an empty stream has raised DataError
    work = Pass(network, needs, objective, first)
    work.ablation = ExactAblation(network, partial(Removals, network, objective))
    work.add(first)
    for batch in stream:
        work.add(batch)
    return work.build_statistics()


def _collect_by_steps(
    network: Network, needs: Need, data: object, loss: StepLoss, caller: str
) -> CalibrationStatistics:
    """Collect the same for a loss that takes the model: batches of any kind, example by example."""
    runner = StepRunner(loss, caller)
    work = StepPass(network, needs, runner)
    work.ablation = ExactAblation(network, lambda _: StepRemovals(network, runner))
    for batch in iterate_examples(data, caller):
        work.add(batch)
    return work.build_statistics()
