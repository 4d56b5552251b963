"""What each operation does to the labels. Importing this package registers every rule."""

from secateurs.pytorch.rules import (
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
from secateurs.pytorch.rules.registry import RULES, apply, is_whole

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
