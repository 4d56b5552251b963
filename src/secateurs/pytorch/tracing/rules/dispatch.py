"""Dispatch an operation to its rule: run it, label its results, and record their sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Labels, follow, is_data, is_followed, labels_of
from secateurs.pytorch.tracing.rules.pointwise import apply_pointwise, meet
from secateurs.pytorch.tracing.rules.registry import NAMED, RULES, unknown
from secateurs.pytorch.tracing.tracer import Tracer


def apply(tracer: Tracer, call: Call) -> object:
    """Run an operation and label its result; one without a rule freezes what it touches."""
    found = RULES.get(call.packet) or NAMED.get(call.packet._qualified_op_name)
    if found is None and torch.Tag.pointwise in call.function.tags:
        found = apply_pointwise
    if found is None:
        found = apply_in_place if _functional_twin(call) is not None else unknown
    output = found(tracer, call)
    _label_results(call, output)
    return output


def _functional_twin(call: Call) -> Call | None:
    """The out-of-place form of an in-place operation; None where that has no rule."""
    name = call.name
    if not name.endswith("_") or not isinstance(call.get("self"), torch.Tensor):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    overload = getattr(packet, call.function._overloadname, None)
    if packet not in RULES or overload is None:
        return None
    return Call(overload, call.arguments, call.keywords)


def apply_in_place(tracer: Tracer, call: Call) -> object:
    """Treat ``x.cumsum_(0)`` as ``x.copy_(x.cumsum(0))``: the result is written into the operand.

    Where the masked twin would have to change the operand that is written into, the operation
    counts as unknown.
    """
    twin, operation = _functional_twin(call), tracer.operations[-1]
    if twin is None:
        return unknown(tracer, call)
    (made,) = iterate_tensors(RULES[twin.packet](tracer, twin))
    if operation.mixed or any(mask.operand == 0 for mask in operation.masks):
        operation.mixed, operation.masks = [], []
        return unknown(tracer, call)
    output = call.run_one()
    meet(tracer, [call["self"], made], output)
    return output


def _label_results(call: Call, output: object) -> None:
    """Attach labels to every result, with the sources it was computed from."""
    sources = [labels_of(tensor) for tensor in call.tensors() if is_followed(tensor)]
    origin = _find_origin(call, sources)
    results = list(iterate_tensors(output))
    is_constant = bool(sources) and all(labels.is_constant for labels in sources)
    call.result = results[0] if results else None
    for labels in sources:
        labels.uses += 1
    for place, tensor in enumerate(results):
        labels = labels_of(tensor)
        if labels.leaf is not None:
            continue
        # An in-place operation returns its operand, whose labels must not change: these are a copy.
        made = labels.of_result(call, sources, place)
        if not is_followed(tensor):
            made.why = next((source.why for source in sources), made.why)
        if origin is not None:
            made.origin = origin
        made.is_constant = is_constant and not tensor.is_meta
        follow(tensor, made)


def _find_origin(call: Call, sources: Sequence[Labels]) -> ModelTensor | None:
    """The first weight, where the operation computes a weight from weights alone."""
    weights = [labels.weight for labels in sources]
    if not weights or None in weights or any(is_data(tensor) for tensor in call.tensors()):
        return None
    return weights[0]
