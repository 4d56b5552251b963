"""What criteria need from calibration data; it determines what one pass collects."""

from __future__ import annotations

from enum import Flag, auto


class Need(Flag):
    """Statistics that must be collected before a criterion can score."""

    NOTHING = 0
    WEIGHTS = auto()
    ACTIVATIONS = auto()
    """Sums over the values that consumers read; see ``statistics.ActivationStatistics``."""
    GRAMS = auto()
    """Products of those values between channels; see ``statistics.Gram``."""
    GATES = auto()
    """Gradients of each image's loss with respect to channel gates; see ``statistics.Gates``."""
    CURVATURE = auto()
    """Squared gradients of the weights, image by image."""
    ABLATION = auto()
    """Change of the loss when a channel is removed; see ``ablation.Ablation``."""

    DATA = ACTIVATIONS | GRAMS | GATES | CURVATURE | ABLATION
    """Needs that require calibration images."""
    LOSS = GATES | CURVATURE | ABLATION
    """Needs that require a loss, and so labels."""
