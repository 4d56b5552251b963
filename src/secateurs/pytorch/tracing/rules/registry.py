"""Registry of rules: operation -> function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._ops import OpOverloadPacket

from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.tracer import Tracer

Rule = Callable[[Tracer, Call], object]

RULES: dict[OpOverloadPacket, Rule] = {}
NAMED: dict[str, Rule] = {}
"""Rules by qualified name, for operations of other packages, which may not be imported yet."""


def rule(*operations: OpOverloadPacket | str) -> Callable[[Rule], Rule]:
    """Decorator that registers a rule for these operations; others' by 'package::operation'."""

    def register(function: Rule) -> Rule:
        for operation in operations:
            if isinstance(operation, str):
                NAMED[operation] = function
            else:
                RULES[operation] = function
        return function

    return register


def packets(names: str) -> list[OpOverloadPacket]:
    """PyTorch's own operations of these names, as far as this release has them."""
    found = (getattr(torch.ops.aten, name, None) for name in names.split())
    return [packet for packet in found if packet is not None]


def is_whole(packet: OpOverloadPacket) -> bool:
    """Whether the operation has a rule, so that it must not be decomposed."""
    return packet in RULES


def unknown(tracer: Tracer, call: Call) -> object:
    """Freeze everything that an operation without a rule reads, and run it."""
    reason = f"no rule for {call.packet._qualified_op_name} at {tracer.where()}"
    for tensor in call.tensors():
        tracer.freeze(tensor, reason)
    output = call.run()
    for tensor in iterate_tensors(output):
        tracer.put(tensor, {}, why=f"the result of {call.packet._qualified_op_name}")
    return output
