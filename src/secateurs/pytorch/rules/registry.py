"""Which rule goes with which operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from secateurs.pytorch import shapes
from secateurs.pytorch.counted import aten
from secateurs.pytorch.tracer import Call, Labels, Tracer, follow, is_followed, tensors_in

Rule = Callable[[Tracer, Call], Any]

RULES: dict[OpOverloadPacket, Rule] = {}

CONSTANTS = {aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty}
"""Operations whose result does not depend on the tensor they are called on."""


def rule(*packets: OpOverloadPacket) -> Callable[[Rule], Rule]:
    """Register the rule for these operations."""

    def register(function: Rule) -> Rule:
        for packet in packets:
            RULES[packet] = function
        return function

    return register


def is_whole(packet: OpOverloadPacket) -> bool:
    """Whether the operation has a rule, so that it must not be taken apart."""
    return packet in RULES


def apply(tracer: Tracer, call: Call) -> Any:
    """Run an operation and label its result; an unknown one freezes what it touches."""
    found = RULES.get(call.packet)
    if found is None:
        found = pointwise if torch.Tag.pointwise in call.function.tags else unknown
    output = found(tracer, call)
    if call.packet not in CONSTANTS:
        _follow_all(tracer, call, output)
    return output


def _follow_all(tracer: Tracer, call: Call, output: Any) -> None:
    """Every result is followed, labelled or not; one without channels says where it is from."""
    sources = [tracer.labels(tensor) for tensor in call.tensors() if is_followed(tensor)]
    why = next((labels.why for labels in sources), "")
    weights = [labels.weight for labels in sources]
    for tensor in tensors_in(output):
        if not is_followed(tensor):
            follow(tensor, Labels(why=why))
        labels = tracer.labels(tensor)
        if labels.leaf is None and weights and None not in weights:
            labels.origin = weights[0]


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
