"""Tracing rules, one function for each layer or operation. Importing the package registers all."""

from secateurs.keras.tracing.rules import (
    attention,
    contraction,
    indexing,
    movement,
    normalisation,
    pointwise,
    pooling,
    recurrent,
    reduction,
    wrappers,
)
from secateurs.keras.tracing.rules.registry import RULES, apply, rule, rule_for, unknown

__all__ = [
    "RULES",
    "apply",
    "attention",
    "contraction",
    "indexing",
    "movement",
    "normalisation",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
    "rule",
    "rule_for",
    "unknown",
    "wrappers",
]
