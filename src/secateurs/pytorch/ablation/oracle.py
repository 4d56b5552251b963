"""Oracle pruning at affordable cost: the loss without each channel, exactly or by racing."""

from __future__ import annotations

from functools import partial

from secateurs.backends import Loss
from secateurs.calibration.ablation import Ablation
from secateurs.calibration.batches import CalibrationBatch, iterate_batches
from secateurs.calibration.examples import StepLoss, iterate_examples
from secateurs.calibration.oracle import ablate
from secateurs.calibration.racing import Mode, Scope, check_options
from secateurs.channels.network import Network
from secateurs.pytorch.ablation.removal import Removals
from secateurs.pytorch.ablation.step_removals import StepRemovals
from secateurs.pytorch.statistics.loss import PerExampleLoss
from secateurs.pytorch.statistics.steps import StepRunner
from secateurs.pytorch.trace_model import source_of


def ablate_channels(
    network: Network,
    data: object,
    *,
    mode: Mode = "exact",
    share: float = 0.2,
    scope: Scope = "network",
    confidence: float = 0.97,
    loss: Loss | None = None,
) -> Ablation:
    """Measure the change of the loss when each channel is removed alone, wherever it is read.

    Args:
        network: network made by ``trace``; its model comes back exactly as it was.
        data: (images, labels) as two arrays, or an iterable of such batches.
        mode: 'exact' removes every channel on every image. 'racing' finds the fraction ``share`` of
            channels whose removal costs least, removing only uncertain ones; for the rest it gives
            an estimate and its error.
        share: in racing mode, the fraction of channels to find, in (0, 1).
        scope: in racing mode, whether to find the lowest of the whole 'network' or of each 'group'.
        confidence: in racing mode, the expected fraction of the channels found that are correct, in
            (0, 1).
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.

    Returns:
        The ablation; in racing mode ``.lowest`` names the channels found.

    Raises:
        DataError: the data cannot be used, or an argument is out of range.
    """
    check_options(mode, share, scope, confidence)
    source = source_of(network)
    source.check_values("oracle")
    if isinstance(loss, StepLoss):
        runner = StepRunner(loss, "oracle")
        batches = iterate_examples(data, "oracle")
        by_steps = partial(_removals_by_steps, network, runner)
        return ablate(network, batches, by_steps, mode, share, scope, confidence)
    objective = PerExampleLoss(loss, "oracle")
    stream = iterate_batches(data, source.example_inputs, "oracle", labels=objective.needs_labels)
    removals = partial(Removals, network, objective)
    return ablate(network, stream, removals, mode, share, scope, confidence)


def _removals_by_steps(
    network: Network, runner: StepRunner, first: CalibrationBatch
) -> StepRemovals:
    del first
    return StepRemovals(network, runner)
