"""Which rule goes with which class; empty until ``secateurs.keras.tracing.rules`` is imported."""

from __future__ import annotations

from collections.abc import Callable

RULES: dict[type, Callable[..., None]] = {}


def rule_for(kind: type) -> Callable[..., object] | None:
    """The rule of this class, or of one it stems from without computing anything else."""
    for ancestor in kind.__mro__:
        if ancestor in RULES:
            same = getattr(kind, "call", None) is getattr(ancestor, "call", None)
            return RULES[ancestor] if same else None
    return None
