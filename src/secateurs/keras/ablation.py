"""Oracle pruning: what the loss does without each channel."""

from __future__ import annotations

from typing import Any

from secateurs.channels.network import Network
from secateurs.criteria.ablations import Ablation
from secateurs.criteria.registry import Need
from secateurs.keras.gather import gather
from secateurs.keras.objective import Loss


def oracle(network: Network, data: Any, *, loss: Loss | None = None) -> Ablation:
    """What the loss does when each channel is removed, alone, wherever it is read.

    Every channel is removed on every image; there is no racing here as there is for PyTorch.

    Args:
        network: as ``trace`` made it; its model comes back exactly as it was.
        data: (images, labels) as two arrays, or an iterable of such batches.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.

    Raises:
        DataError: the data cannot be used.
    """
    ablation: Any = gather(network, Need.ABLATION, data, loss=loss, who="oracle").ablation
    found: Ablation = ablation
    return found
