"""Oracle pruning at affordable cost: the loss without each channel, exactly or by racing."""

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
    """Measure the change of the loss when each channel is removed alone, wherever it is read.

    Args:
        network: network returned by ``trace``. Its model is left unchanged.
        data: (images, labels) as two arrays, or an iterable of such batches.
        mode: 'exact' removes every channel on every image. 'racing' finds the ``share`` of channels
            whose removal costs least, and removes only uncertain channels; the others get an
            estimate with its error.
        share: in racing mode, fraction of channels to find, in (0, 1).
        scope: in racing mode, find the lowest of the whole 'network' or of each 'group'.
        confidence: in racing mode, expected fraction of the found channels that are correct, in
            (0, 1).
        loss: function (outputs, labels) -> losses of shape (images,); None for cross-entropy.

    Returns:
        The ablation; in racing mode, ``.lowest`` lists the channels found.

    Raises:
        DataError: the data cannot be used, or an argument is out of range.
    """
    check_options(mode, share, scope, confidence)
    work, stream = start_pass(network, Need.ABLATION, data, loss, "oracle")
    return ablate(network, stream, lambda _: Removals(work), mode, share, scope, confidence)
