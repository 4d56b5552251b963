"""Rules: how each layer or operation propagates channels. Importing this registers all of them."""

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
