"""Fast shape inference for common operations on tensors without data.

PyTorch's own inference is mostly written in Python: it takes half a millisecond for a ReLU and two
for a normalisation, which would be most of a trace's time. Each function here handles the usual
arguments only. Unusual ones, and shapes that do not fit, are left to PyTorch, which also raises the
error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch._ops import OpOverloadPacket

from secateurs.pytorch.tracing.without_data import Named

aten = torch.ops.aten

Infer = Callable[[Named], object]

UNARY = (
    aten.relu,
    aten.silu,
    aten.gelu,
    aten.hardswish,
    aten.hardsigmoid,
    aten.hardtanh,
    aten.relu6,
    aten.sigmoid,
    aten.tanh,
    aten.elu,
    aten.leaky_relu,
    aten.mish,
    aten.softplus,
    aten.dropout,
    aten.clone,
)
IN_PLACE = (
    aten.relu_,
    aten.silu_,
    aten.hardswish_,
    aten.hardsigmoid_,
    aten.hardtanh_,
    aten.relu6_,
    aten.sigmoid_,
    aten.tanh_,
    aten.elu_,
    aten.leaky_relu_,
    aten.mish_,
    aten.dropout_,
    aten.add_,
    aten.mul_,
    aten.sub_,
    aten.div_,
)
BINARY = (aten.add, aten.mul, aten.sub, aten.div)


def infer(packet: OpOverloadPacket, named: Named) -> object:
    """An operation's result without data; None where PyTorch is to infer it.

    Args:
        packet: the operation.
        named: its arguments by name, the first of them a tensor without data.
    """
    found = INFERENCE.get(packet)
    return None if found is None else found(named)


def empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """A tensor without data of this shape and of another tensor's dtype."""
    return torch.empty(tuple(shape), dtype=like.dtype, device="meta")


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """A tensor without data of another's shape, dtype and memory layout."""
    return empty(x.shape, x) if x.is_contiguous() else torch.empty_like(x)


def _is_float(x: object) -> TypeGuard[torch.Tensor]:
    return isinstance(x, torch.Tensor) and x.is_meta and x.is_floating_point()


def _unary(named: Named) -> torch.Tensor | None:
    x = named.get("self", named.get("input"))
    if not _is_float(x) or named.get("dtype") is not None or named.get("memory_format") is not None:
        return None
    return empty_like(x)


def _in_place(named: Named) -> torch.Tensor | None:
    x = named.get("self", named.get("input"))
    if not _is_float(x):
        return None
    other = named.get("other")
    fits = not isinstance(other, torch.Tensor) or other.shape == x.shape
    return x if fits and _keeps_dtype(other, x) else None


def _binary(named: Named) -> torch.Tensor | None:
    x, other = named.get("self"), named.get("other")
    if not _is_float(x) or not _keeps_dtype(other, x) or "rounding_mode" in named:
        return None
    if not isinstance(other, torch.Tensor) or other.shape == x.shape:
        return empty_like(x)
    if other.dim() != x.dim() or not (x.is_contiguous() and other.is_contiguous()):
        return None
    pairs = list(zip(x.shape, other.shape, strict=True))
    if any(a not in (b, 1) and b != 1 for a, b in pairs):
        return None
    return empty([b if a == 1 else a for a, b in pairs], x)


def _keeps_dtype(other: object, x: torch.Tensor) -> bool:
    """Whether an operand leaves the dtype of the result at x's."""
    if isinstance(other, torch.Tensor):
        return other.dtype == x.dtype and other.is_meta
    return not isinstance(other, complex)


def _batch_norm(named: Named) -> torch.Tensor | None:
    x = named["input"]
    if not _is_float(x) or x.dim() < 2:
        return None
    vectors = (named.get(name) for name in ("weight", "bias", "running_mean", "running_var"))
    if any(vector is not None and tuple(vector.shape) != (x.shape[1],) for vector in vectors):
        return None
    return empty_like(x)


def _layer_norm(named: Named) -> torch.Tensor | None:
    x, shape = named["input"], tuple(named["normalized_shape"])
    if not _is_float(x) or not x.is_contiguous() or tuple(x.shape[x.dim() - len(shape) :]) != shape:
        return None
    for vector in (named.get("weight"), named.get("bias")):
        if vector is not None and (tuple(vector.shape) != shape or vector.dtype != x.dtype):
            return None
    return empty_like(x)


def _convolution(named: Named) -> torch.Tensor | None:
    """A convolution whose padding is given as integers."""
    x, weight, padding = named["input"], named["weight"], named.get("padding", 0)
    rank = weight.dim() - 2
    if not x.is_meta or isinstance(padding, str) or x.dim() != weight.dim():
        return None
    groups = named.get("groups", 1)
    if named.get("transposed") or x.shape[1] != weight.shape[1] * groups:
        return None
    bias = named.get("bias")
    if weight.shape[0] % groups or (bias is not None and bias.shape[0] != weight.shape[0]):
        return None
    steps = [per_axis(named.get(name, 1), rank) for name in ("stride", "dilation")]
    space = [
        (size + 2 * pad - hole * (tap - 1) - 1) // step + 1
        for size, pad, step, hole, tap in zip(
            x.shape[2:], per_axis(padding, rank), *steps, weight.shape[2:], strict=True
        )
    ]
    return None if min(space) < 1 else empty((x.shape[0], weight.shape[0], *space), x)


def per_axis(value: int | Sequence[int], rank: int) -> list[int]:
    """A convolution's setting for each of its axes."""
    given = [value] if isinstance(value, int) else list(value)
    return given * rank if len(given) == 1 else given


def _linear(named: Named) -> torch.Tensor | None:
    x, weight, bias = named["input"], named["weight"], named.get("bias")
    if not _is_float(x) or weight.dim() != 2 or not x.dim() or x.shape[-1] != weight.shape[1]:
        return None
    if x.dtype != weight.dtype or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return empty((*x.shape[:-1], weight.shape[0]), x)


def _adaptive_pool(named: Named) -> torch.Tensor | None:
    x, size = named["self"], named["output_size"]
    if not _is_float(x) or x.dim() != 4 or len(size) != 2 or not x.is_contiguous():
        return None
    return empty((*x.shape[:2], *size), x) if min(size) > 0 else None


def _mean(named: Named) -> torch.Tensor | None:
    x, axes = named["self"], named.get("dim")
    if not _is_float(x) or not axes or named.get("dtype") is not None:
        return None
    if not all(isinstance(axis, int) for axis in axes):
        return None
    gone = {axis % x.dim() for axis in axes}
    if len(gone) != len(axes) or not all(-x.dim() <= axis < x.dim() for axis in axes):
        return None
    if named.get("keepdim", False):
        return empty([1 if at in gone else size for at, size in enumerate(x.shape)], x)
    return empty([size for at, size in enumerate(x.shape) if at not in gone], x)


GATES = {aten.lstm: 4, aten.gru: 3, aten.rnn_tanh: 1, aten.rnn_relu: 1}
"""Recurrent layers, and the rows of their weights for each unit of their state."""


def _recurrent(named: Named, gates: int) -> tuple[torch.Tensor, ...] | None:
    """A recurrent layer's outputs and last states; PyTorch infers them step by step in Python."""
    x, hidden = named.get("input"), named["hx"]
    states: Sequence[torch.Tensor] = hidden if isinstance(hidden, (list, tuple)) else [hidden]
    if not _is_float(x) or x.dim() != 3 or any(state.dtype != x.dtype for state in states):
        return None
    directions = 2 if named["bidirectional"] else 1
    width = _check_recurrent(named, gates, states, directions)
    if width is None:
        return None
    batch, steps = x.shape[:2] if named["batch_first"] else (x.shape[1], x.shape[0])
    output = empty((steps, batch, width * directions), x)
    if named["batch_first"]:
        output = output.transpose(0, 1)
    return (output, *(empty(state.shape, x) for state in states))


def _check_recurrent(
    named: Named, gates: int, states: Sequence[torch.Tensor], directions: int
) -> int | None:
    """The width of one direction's outputs; None where some size does not fit the others."""
    x, weights, runs = named["input"], named["params"], named["num_layers"] * directions
    each = len(weights) // runs
    units, width = weights[1].shape[0] // gates, weights[1].shape[1]
    batch = x.shape[0 if named["batch_first"] else 1]
    lengths = [width, units][: len(states)]  # of an LSTM's output and of its cells
    if [tuple(state.shape) for state in states] != [(runs, batch, length) for length in lengths]:
        return None
    rows = gates * units
    for run in range(runs):
        given = x.shape[2] if run < directions else width * directions
        expected = [(rows, given), (rows, width), *([(rows,)] * 2 if named["has_biases"] else [])]
        expected += [(width, units)] if width != units else []
        found = weights[run * each : (run + 1) * each]
        if [tuple(weight.shape) for weight in found] != expected:
            return None
        if any(weight.dtype != x.dtype for weight in found):
            return None
    return int(width)


INFERENCE: dict[OpOverloadPacket, Infer] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(IN_PLACE, _in_place),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys((aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution), _convolution),
    aten.batch_norm: _batch_norm,
    aten.layer_norm: _layer_norm,
    aten.linear: _linear,
    aten.adaptive_avg_pool2d: _adaptive_pool,
    aten.mean: _mean,
    **{packet: partial(_recurrent, gates=gates) for packet, gates in GATES.items()},
}
