"""Oracle pruning: what the loss does without each channel."""

from __future__ import annotations

from typing import Any

from secateurs.channels.network import Network
from secateurs.criteria.ablations import Ablation
from secateurs.criteria.registry import Need
from secateurs.errors import DataError
from secateurs.keras.gather import gather
from secateurs.keras.objective import Loss


def oracle(
    network: Network, data: Any, *, mode: str = "exact", loss: Loss | None = None
) -> Ablation:
    """What the loss does when each channel is removed, alone, wherever it is read.

    Every channel is removed on every image; there is no racing here as there is for PyTorch.

    Args:
        network: as ``trace`` made it; its model comes back exactly as it was.
        data: (images, labels) as two arrays, or an iterable of such batches.
        mode: 'exact'.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.

    Raises:
        DataError: the data cannot be used, or another mode was asked for.
    """
    if mode != "exact":
        raise DataError(
            f"oracle: expected mode 'exact' for a Keras model; received {mode!r}. Leave it out, or "
            "rank by an estimate: 'taylor' or 'fisher'."
        )
    ablation: Any = gather(network, Need.ABLATION, data, loss=loss, who="oracle").ablation
    found: Ablation = ablation
    return found
