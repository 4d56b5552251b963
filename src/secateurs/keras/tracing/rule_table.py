"""Table of rules by class; importing ``secateurs.keras.tracing.rules`` fills it."""

from __future__ import annotations

from collections.abc import Callable

RULES: dict[type, Callable[..., None]] = {}


def rule_for(kind: type) -> Callable[..., object] | None:
    """Return the rule of a class, or of a base class whose ``call`` it inherits unchanged."""
    for ancestor in kind.__mro__:
        if ancestor in RULES:
            same = getattr(kind, "call", None) is getattr(ancestor, "call", None)
            return RULES[ancestor] if same else None
    return None
