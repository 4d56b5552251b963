"""Registry of rules: class -> function."""

from __future__ import annotations

from collections.abc import Callable

from secateurs.keras.internals import is_quantized, own_variables, sublayers
from secateurs.keras.tracing.composites import NOT_REGISTERED
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.rule_table import RULES, rule_for
from secateurs.keras.tracing.tracer import Tracer

__all__ = ["RULES", "Rule", "apply", "freeze_weights", "rule", "rule_for", "unknown"]

Rule = Callable[[Tracer, Call], None]


def rule(*layers: type) -> Callable[[Rule], Rule]:
    """Register a rule: how layers of these classes propagate channels.

    A rule reads ``call.input`` (or ``call.inputs``) and labels ``call.output`` (or
    ``call.outputs``). A layer that scales each channel by a weight of its own::

        @secateurs.keras.rule(LayerScale)
        def layer_scale(tracer, call):
            x, gamma = call.input, tracer.weight(call.layer.gamma)
            units = tracer.unify([Place(x, -1), Place(gamma, 0)])    # gamma's axis is x's channels
            tracer.counts(call.path, "projection_dim", units)        # a size in its get_config()
            tracer.carry(call)                                       # the result has x's channels

    Args:
        *layers: classes of layers (or of ``keras.ops`` operations).
    """

    def register(function: Rule) -> Rule:
        for layer in layers:
            RULES[layer] = function
        return function

    return register


OF_ALL_OPERANDS: set[Rule] = set()
"""Rules that label every operand, not only the first."""


def apply(tracer: Tracer, call: Call) -> None:
    """Label the outputs of a call by its rule; a layer without a rule freezes its operands."""
    found = rule_for(type(call.layer))
    # With a single operand, every rule covers it.
    weights = len(call.inputs) > 1 and any(value.leaf is not None for value in call.inputs)
    if found is None or is_quantized(call.layer):
        unknown(tracer, call)
    elif weights and found not in OF_ALL_OPERANDS:
        unknown(tracer, call, "one of its inputs is a weight, which its rule does not cover")
    else:
        found(tracer, call)


def unknown(tracer: Tracer, call: Call, why: str = "") -> None:
    """Freeze everything that a call without a rule reads, and its weights."""
    reason = f"{call}: {why or _why_unknown(call, tracer.closed)}"
    for value in call.inputs:
        tracer.freeze(value, reason)
    freeze_weights(tracer, call.layer, reason)
    for value in call.outputs:
        tracer.put(value, {}, why=f"the result of {call}")


def freeze_weights(tracer: Tracer, layer: object, reason: str) -> None:
    """Freeze all weights of a layer and its sublayers."""
    for variable, _ in own_variables(layer):
        tracer.freeze(tracer.weight(variable), reason)
    for child in sublayers(layer):
        freeze_weights(tracer, child, reason)


def _why_unknown(call: Call, closed: str) -> str:
    if is_quantized(call.layer):
        return "it is quantized or carries LoRA weights; merge or dequantize it first"
    if closed == NOT_REGISTERED:
        advice = f"or register a rule for it with @secateurs.keras.rule({call.kind})"
        return f"no rule for {call.kind}, and {closed}, {advice}"
    advice = "write it with keras.ops"
    if call.kind != "Lambda":
        advice = f"register a rule for it with @secateurs.keras.rule({call.kind}), or {advice}"
    return f"no rule for {call.kind}{f', and {closed}' if closed else ''}; {advice}"
