"""Results of a repair, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerRepair:
    """Result of least squares for one layer.

    Attributes:
        weight: name of its weight.
        inputs: number of inputs of each output.
        ridge: ridge chosen on held-out images; NaN where only the bias was changed.
        before: squared error on held-out images as it was cut, relative to the variance of the
            dense layer's outputs.
        after: the same after least squares; never above ``before``.
    """

    weight: str
    inputs: int
    ridge: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Walked:
    """Result of a walk through both networks.

    Attributes:
        layers: refitted layers, in the order of the forward pass.
        peak_bytes: peak size of the values of both networks that were held at once.
    """

    layers: tuple[LayerRepair, ...]
    peak_bytes: int
