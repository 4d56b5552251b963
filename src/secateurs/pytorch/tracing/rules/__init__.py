"""Tracing rules, one function for each operation. Importing the package registers all of them."""

from secateurs.pytorch.tracing.rules import (
    along_axis,
    contraction,
    indexing,
    movement,
    normalisation,
    pointwise,
    pooling,
    quantisation,
    recurrent,
    reduction,
    vision,
)
from secateurs.pytorch.tracing.rules.dispatch import apply
from secateurs.pytorch.tracing.rules.registry import RULES, is_whole

__all__ = [
    "RULES",
    "along_axis",
    "apply",
    "contraction",
    "indexing",
    "is_whole",
    "movement",
    "normalisation",
    "pointwise",
    "pooling",
    "quantisation",
    "recurrent",
    "reduction",
    "vision",
]
