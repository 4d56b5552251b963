"""Ablation of each channel: exact, or as far as a race needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from secateurs.calibration.ablation import Ablation
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.racing import Mode, Race, Scope
from secateurs.calibration.removal import AnyRun, ExactAblation, Removals
from secateurs.channels.network import Network


def ablate(
    network: Network,
    batches: Iterable[CalibrationBatch],
    removals: Callable[[CalibrationBatch], Removals[AnyRun]],
    mode: Mode,
    share: float,
    scope: Scope,
    confidence: float,
) -> Ablation:
    """Remove channels one at a time: all of them, or those that are uncertain.

    Args:
        network: as traced.
        batches: at least one.
        removals: function that prepares the removal of channels from the first batch.
        mode: 'exact' removes every channel on every image; 'racing' the uncertain ones.
        share: as for ``Race``.
        scope: as for ``Race``.
        confidence: as for ``Race``.
    """
    if mode == "exact":
        exact = ExactAblation(network, removals)
        for batch in batches:
            exact.add(batch)
        return exact.ablation()
    parts = list(batches)
    return Race(network, removals(parts[0]), parts, share, scope, confidence).run()
