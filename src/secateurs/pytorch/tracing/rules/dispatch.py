"""From an operation to its rule: run it, label what it gives, and note what it was made of."""

from __future__ import annotations

from dataclasses import replace

import torch

from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import follow, is_data, is_followed, labels_of
from secateurs.pytorch.tracing.rules.pointwise import apply_pointwise
from secateurs.pytorch.tracing.rules.registry import NAMED, RULES, unknown
from secateurs.pytorch.tracing.tracer import Tracer


def apply(tracer: Tracer, call: Call) -> object:
    """Run an operation and label its result; an unknown one freezes what it touches."""
    found = RULES.get(call.packet) or NAMED.get(call.packet._qualified_op_name)
    if found is None:
        found = apply_pointwise if torch.Tag.pointwise in call.function.tags else unknown
    output = found(tracer, call)
    _follow_all(call, output)
    return output


def _follow_all(call: Call, output: object) -> None:
    """Every result is followed, labelled or not, and knows what it was made from."""
    sources = [labels_of(tensor) for tensor in call.tensors() if is_followed(tensor)]
    weights = [labels.weight for labels in sources]
    results = list(iterate_tensors(output))
    looked_up_by_data = any(is_data(tensor) for tensor in call.tensors())
    is_constant = bool(sources) and all(labels.is_constant for labels in sources)
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
        if weights and None not in weights and not looked_up_by_data:
            made.origin = weights[0]
        made.is_constant = is_constant and not tensor.is_meta
        follow(tensor, made)
