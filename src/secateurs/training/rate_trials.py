"""Learning rates by trial: a few steps at several rates, before the steps that count.

No rate fits all networks: in a ResNet, three times the usual one comes nearer to the dense model,
and in an EfficientNet the usual one leads away from it, where a thirtieth does not. A trial is a
whole cycle of rates in a few steps, so that it ends at a low rate as the training does; all trials
see the same images.

Source: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017 (a test of rates by
a few steps; there within one run).
"""

from __future__ import annotations

from collections.abc import Callable

MOST_STEPS = 20
"""Steps of a trial."""

LEAST_STEPS = 6
"""Steps below which a trial says too little."""

SHARE = 1 / 15
"""Share of the training that one trial may take."""

_FACTOR = 3.0
_MOST_UP, _MOST_DOWN = 2, 4
"""Trials in each direction."""


def best_scale(loss_at: Callable[[float], float]) -> float:
    """The scale of the rates with the least loss: larger ones while it falls, else smaller ones.

    Args:
        loss_at: loss after a trial at this scale; infinite or NaN where it failed.

    Example:
        >>> best_scale(lambda scale: abs(scale - 4)), best_scale(lambda scale: 1 / scale)
        (3.0, 9.0)
    """
    best, least = 1.0, loss_at(1.0)
    for factor, most in ((_FACTOR, _MOST_UP), (1 / _FACTOR, _MOST_DOWN)):
        for power in range(1, most + 1):
            loss = loss_at(factor**power)
            if not loss < least:
                break
            best, least = factor**power, loss
        if best != 1:
            break
    return best
