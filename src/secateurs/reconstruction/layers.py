"""What a repair did, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerRepair:
    """What least squares did for one layer.

    Attributes:
        weight: the name of its weight.
        inputs: how many an output of it has.
        ridge: what held-out images chose; NaN where the weights stay and the intercept alone moves.
        before: the squared error on held-out images as it was cut, relative to the spread of what
            the dense layer gives.
        after: after least squares; never above ``before``.
    """

    weight: str
    inputs: int
    ridge: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk through both networks did.

    Attributes:
        layers: those that were refitted, in the order of the pass.
        peak_bytes: of the values of both networks that were held at once, at most.
    """

    layers: tuple[LayerRepair, ...]
    peak_bytes: int
