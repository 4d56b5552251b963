"""Which rule goes with which operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from secateurs.pytorch import shapes
from secateurs.pytorch.calls import MADE_NEW, Call, tensors_in
from secateurs.pytorch.operations import follow, is_followed, labels_of
from secateurs.pytorch.tracer import Tracer

Rule = Callable[[Tracer, Call], Any]

RULES: dict[OpOverloadPacket, Rule] = {}
NAMED: dict[str, Rule] = {}
"""Rules for operations that other packages bring, by name: they may not be there yet."""


def rule(*operations: OpOverloadPacket | str) -> Callable[[Rule], Rule]:
    """Register the rule for these operations; another package's by name, 'package::operation'."""

    def register(function: Rule) -> Rule:
        for operation in operations:
            if isinstance(operation, str):
                NAMED[operation] = function
            else:
                RULES[operation] = function
        return function

    return register


def is_whole(packet: OpOverloadPacket) -> bool:
    """Whether the operation has a rule, so that it must not be taken apart."""
    return packet in RULES


def apply(tracer: Tracer, call: Call) -> Any:
    """Run an operation and label its result; an unknown one freezes what it touches."""
    found = RULES.get(call.packet) or NAMED.get(call.packet._qualified_op_name)
    if found is None:
        found = pointwise if torch.Tag.pointwise in call.function.tags else unknown
    output = found(tracer, call)
    if call.packet not in MADE_NEW:
        _follow_all(call, output)
    return output


def _follow_all(call: Call, output: Any) -> None:
    """Every result is followed, labelled or not, and knows what it was made from."""
    sources = [labels_of(tensor) for tensor in call.tensors() if is_followed(tensor)]
    weights = [labels.weight for labels in sources]
    results = list(tensors_in(output))
    call.result = results[0] if results else None
    for labels in sources:
        labels.uses += 1
    for place, tensor in enumerate(results):
        labels = labels_of(tensor)
        if labels.leaf is not None:
            continue
        # An operation in place gives back what it was given: what is known of that must not change.
        made = replace(labels, call=call, sources=sources, place=place, uses=0)
        if not is_followed(tensor):
            made.why = next((source.why for source in sources), made.why)
        if weights and None not in weights:
            made.origin = weights[0]
        follow(tensor, made)


def pointwise(tracer: Tracer, call: Call) -> Any:
    """Element by element: axes that meet, counted from the last, are one."""
    from secateurs.pytorch.rules.pointwise import meet

    output = shapes.pointwise(call)
    for tensor in tensors_in(output):
        meet(tracer, call.tensors(), tensor)
    return output


def unknown(tracer: Tracer, call: Call) -> Any:
    """Nobody knows what it does, so nothing that it reads may change."""
    reason = f"no rule for {call.packet._qualified_op_name} at {tracer.where()}"
    for tensor in call.tensors():
        tracer.freeze(tensor, reason)
    output = call.run()
    for tensor in tensors_in(output):
        tracer.put(tensor, {}, why=f"what {call.packet._qualified_op_name} gave")
    return output
