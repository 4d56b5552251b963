"""Oracle pruning made affordable: what the loss does without each channel, exactly or by racing."""

from __future__ import annotations

from secateurs.calibration.ablation import Ablation
from secateurs.calibration.needs import Need
from secateurs.calibration.oracle import ablate
from secateurs.calibration.racing import Mode, Scope, check_options
from secateurs.channels.network import Network
from secateurs.keras.ablation.removal import Removals
from secateurs.keras.statistics.collector import start_pass
from secateurs.keras.statistics.loss import BatchLoss


def ablate_channels(
    network: Network,
    data: object,
    *,
    mode: Mode = "exact",
    share: float = 0.2,
    scope: Scope = "network",
    confidence: float = 0.97,
    loss: BatchLoss | None = None,
) -> Ablation:
    """What the loss does when each channel is removed, alone, wherever it is read.

    Args:
        network: as ``trace`` made it; its model comes back exactly as it was.
        data: (images, labels) as two arrays, or an iterable of such batches.
        mode: 'exact' removes every channel on every image. 'racing' finds the ``share`` of channels
            whose removal costs least, removing only those in doubt; for the rest it gives an
            estimate and its error.
        share: in racing mode, the share of channels to find, in (0, 1).
        scope: in racing mode, the lowest of the whole 'network' or of each 'group'.
        confidence: in racing mode, the expected share of the channels found that are right, in
            (0, 1).
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.

    Returns:
        The ablation; in racing mode ``.lowest`` names the channels found.

    Raises:
        DataError: the data cannot be used, or an argument is out of range.
    """
    check_options(mode, share, scope, confidence)
    work, stream = start_pass(network, Need.ABLATION, data, loss, "oracle")
    return ablate(network, stream, lambda _: Removals(work), mode, share, scope, confidence)
