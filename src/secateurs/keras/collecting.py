"""Collect what criteria need from calibration data, in one pass over it."""

from __future__ import annotations

from secateurs.calibration.needs import Need
from secateurs.calibration.removal import ExactAblation
from secateurs.calibration.statistics import CalibrationStatistics
from secateurs.channels.network import Network
from secateurs.keras.ablation.removal import Removals
from secateurs.keras.statistics.collector import start_pass
from secateurs.keras.statistics.loss import BatchLoss


def collect_statistics(
    network: Network,
    needs: Need,
    data: object,
    *,
    loss: BatchLoss | None = None,
    caller: str = "gather",
) -> CalibrationStatistics:
    """Collect the statistics that these needs ask for, in one pass and in bounded memory.

    Args:
        network: network returned by ``trace``. Its model is left unchanged.
        needs: statistics to collect.
        data: calibration data, in any form ``secateurs.calibration.batches.iterate_batches`` takes.
        loss: function (outputs, labels) -> losses of shape (images,), written with ``keras.ops``;
            None for cross-entropy.
        caller: name of the caller, for error messages.

    Raises:
        DataError: the data cannot be used; the message gives the reason and the remedy.
    """
    work, stream = start_pass(network, needs, data, loss, caller)
    work.ablation = ExactAblation(network, lambda _: Removals(work))
    for batch in stream:
        work.add(batch)
    return work.build_statistics()
