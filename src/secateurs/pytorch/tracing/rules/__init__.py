"""What each operation does to the labels. Importing this package registers every rule."""

from secateurs.pytorch.tracing.rules import (
    contraction,
    indexing,
    movement,
    normalisation,
    pointwise,
    pooling,
    recurrent,
    reduction,
    vision,
)
from secateurs.pytorch.tracing.rules.dispatch import apply
from secateurs.pytorch.tracing.rules.registry import RULES, is_whole

__all__ = [
    "RULES",
    "apply",
    "contraction",
    "indexing",
    "is_whole",
    "movement",
    "normalisation",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
    "vision",
]
