"""Widths that ``F.multi_head_attention_forward`` checks where a model calls it itself.

Its embedding, its heads times positions and the rows of all its projections have one width, which
it compares by number before it runs an operation that would show it. ``nn.MultiheadAttention``
makes the same call; its constraints are those of ``sizes/layer_sizes.py``.
"""

from __future__ import annotations

import sys
from types import FrameType

import torch
from torch import nn
from torch.nn import functional

from secateurs.channels.equations import Ids
from secateurs.pytorch.tracing.tracer import Tracer

_CODE = functional.multi_head_attention_forward.__code__
_MOST_FRAMES = 12
"""Most frames between an operation's rule and the function that calls the operation."""

_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def constrain_call(tracer: Tracer, weight: torch.Tensor) -> None:
    """Equate the widths of the attention call whose output projection has this weight, if any."""
    frame = _find_call()
    if frame is None or _is_of_layer(frame):
        return
    values = frame.f_locals
    if tracer.stand_in(values["out_proj_weight"]) is not weight:
        return
    query = tracer.stand_in(values["query"])
    width = _units(tracer, query, query.dim() - 1)
    made = _units(tracer, weight, 1)
    if width is None or made is None or len(width) != len(made):
        return
    tracer.equations.equate(width, made)
    for name in _PROJECTIONS if values["use_separate_proj_weight"] else ():
        rows = _units(tracer, tracer.stand_in(values[name]), 0)
        if rows is not None:
            tracer.equations.equate(width, rows)


def _find_call() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        if frame is None or frame.f_code is _CODE:
            return frame
        frame = frame.f_back
    return None


def _is_of_layer(frame: FrameType) -> bool:
    caller = frame.f_back
    return caller is not None and isinstance(caller.f_locals.get("self"), nn.MultiheadAttention)


def _units(tracer: Tracer, tensor: torch.Tensor, axis: int) -> Ids | None:
    return tracer.axes(tensor).get(axis)
