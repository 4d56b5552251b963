"""What a criterion needs to know of calibration data; the pass over them is chosen by it."""

from __future__ import annotations

from enum import Flag, auto


class Need(Flag):
    """What has to be gathered before a criterion can score."""

    NOTHING = 0
    WEIGHTS = auto()
    ACTIVATIONS = auto()
    """Sums over the values that consumers read; see ``statistics.ActivationStatistics``."""
    GRAMS = auto()
    """Products of those values, channel by channel; see ``statistics.Gram``."""
    GATES = auto()
    """How each image's loss changes with a gate on a channel; see ``statistics.Gates``."""
    CURVATURE = auto()
    """Squared gradients of the weights, image by image."""
    ABLATION = auto()
    """What the loss does when a channel is removed; see ``ablation.Ablation``."""

    DATA = ACTIVATIONS | GRAMS | GATES | CURVATURE | ABLATION
    """Any of these takes calibration images."""
    LOSS = GATES | CURVATURE | ABLATION
    """Any of these takes a loss, and so labels."""
