"""All that criteria need of calibration data, in one pass over them."""

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
    """All that these needs take, in one pass over the calibration data and in bounded memory.

    Args:
        network: as ``trace`` made it; its model comes back exactly as it was.
        needs: what to gather.
        data: calibration data, as ``secateurs.calibration.batches.iterate_batches`` takes them.
        loss: (outputs, labels) -> one loss for each image, with ``keras.ops``; None is
            cross-entropy.
        caller: what needs it, for messages.

    Raises:
        DataError: the data cannot be used; the message says why and what would help.
    """
    work, stream = start_pass(network, needs, data, loss, caller)
    work.ablation = ExactAblation(network, lambda _: Removals(work))
    for batch in stream:
        work.add(batch)
    return work.build_statistics()
