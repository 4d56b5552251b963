"""Tensors that a forward pass allocates and writes into: canvases, states, padding.

``out = h.new_zeros(7, 16); out[1:] = h`` writes through a view: ``out`` changes although no
operation returned it. So tensors are identified here by the memory they share. From the first write
of a followed tensor, all of the memory is followed: every index along every axis gets a unit of its
own, and so does every view of it, created before or after. A write equates these with the units of
what is written, like any element-wise operation.

That is sound where the tensor was uniform along an axis (or ``empty``) until then, since any index
could be left out of it. Elsewhere its units are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch._ops import OpOverload

from secateurs.channels.equations import Equations
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Axes, Labels, follow, is_followed, labels_of

EMPTY = {aten.empty, aten.new_empty, aten.empty_like, aten.empty_strided}
"""Operations whose result is uninitialised memory."""

WRITTEN = "a tensor that is written into"


class FreshTensors:
    """Memory allocated in a forward pass, and the part of it that has been written into.

    Args:
        equations: equations in which units for written tensors are made.
        concrete: whether the trace runs on real tensors, which are then written into for real.
        where: returns the user's line that is running, for reasons.
    """

    def __init__(self, equations: Equations, concrete: bool, where: Callable[[], str]) -> None:
        self._equations = equations
        self._where = where
        self._concrete = concrete
        self._whole: dict[int, tuple[torch.Tensor, bool]] = {}
        self._written: dict[int, torch.Tensor] = {}

    def forget(self) -> None:
        """Begin another forward pass."""
        self._whole.clear()
        self._written.clear()

    def remember(self, call: Call, output: object) -> None:
        """Note memory that an operation on constants allocated, unless it is known already."""
        for tensor in iterate_tensors(output):
            key = _memory(tensor)
            if key is not None and key not in self._whole and _is_whole(tensor):
                self._whole[key] = tensor, call.packet in EMPTY

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The stand-in for a tensor whose memory has been written into; None for others."""
        if not self._written or (is_followed(tensor) and not labels_of(tensor).is_constant):
            return None
        key = _memory(tensor)
        whole = None if key is None else self._written.get(key)
        if whole is None or key is None:
            return None
        base, _ = self._whole[key]
        if tensor is base or _layout(tensor) == _layout(base):
            return whole
        return self._view(whole, base, tensor)

    def open(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Begin to follow the memory of a tensor; None where it was not allocated in this pass."""
        key = _memory(tensor)
        if key is None or key not in self._whole:
            return None
        base, is_empty = self._whole[key]
        whole = base if self._concrete else torch.empty_like(base, device="meta")
        axes: Axes = dict(labels_of(base).axes)
        for axis, length in enumerate(base.shape):
            if length > 1 and axis not in axes:
                axes[axis] = self._equations.units(length)
                if not is_empty and not is_uniform(base, axis):
                    reason = "overwritten constants differ along this axis"
                    self._equations.freeze(axes[axis], f"{reason}, at {self._where()}")
        follow(whole, Labels(axes, why=WRITTEN, is_made=True, is_empty=is_empty))
        self._written[key] = whole
        known = dict(labels_of(tensor).axes) if tensor is not whole else {}
        opened = whole if tensor is whole else self.stand_in(tensor)
        opened_axes = {} if opened is None else labels_of(opened).axes
        for axis, met in known.items():
            if axis in opened_axes:
                self._equations.equate(met, opened_axes[axis])
        return opened

    def _view(self, whole: torch.Tensor, base: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        view = tensor
        if not self._concrete:
            layout = tensor.size(), tensor.stride(), tensor.storage_offset()
            view = whole.as_strided(*layout)
        seen = self._follow_view(base, tensor, labels_of(whole).axes)
        is_empty = labels_of(whole).is_empty
        follow(view, Labels(seen, why=WRITTEN, is_made=True, is_empty=is_empty))
        return view

    def _follow_view(self, base: torch.Tensor, view: torch.Tensor, units: Axes) -> Axes:
        """The units along a view's axes; units that it does not simply run along are frozen.

        Each axis of a view steps through the memory by a stride. It runs along the axis of the
        whole whose stride divides that, as long as it ends before that axis does.
        """
        starts = _places(base, int(view.storage_offset()))
        runs: dict[int, list[tuple[int, int]]] = {}
        for axis, (length, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
            along = None if length == 1 else _axis_of(base, stride)
            if along is not None:
                runs.setdefault(along, []).append((axis, stride // base.stride(along)))
        axes: Axes = {}
        reason = f"read through a view that cannot be followed, at {self._where()}"
        for along, carried in units.items():
            found = runs.get(along, [])
            if not found:
                one = carried[starts[along] : starts[along] + 1]
                self._equations.freeze(one if _covers_one(base, view, along) else carried, reason)
                continue
            axis, step = found[0]
            taken = carried[starts[along] :: step][: view.shape[axis]]
            if _divides(view, found, len(carried)):
                lengths = tuple(view.shape[axis] for axis, _ in found)
                sides = self._equations.factor(carried, lengths)
                axes |= zip((axis for axis, _ in found), sides, strict=True)
            elif len(found) > 1 or len(taken) != view.shape[axis]:
                self._equations.freeze(carried, reason)
            else:
                axes[axis] = taken
        return axes


def is_uniform(constant: torch.Tensor, axis: int) -> bool:
    """Whether a constant is uniform along an axis, so that any index could be removed."""
    if constant.is_meta:
        return False
    if constant.stride(axis) == 0:
        return True
    first = constant.narrow(axis, 0, 1)
    return bool((constant == first).all())


def arguments_written_to(call: Call) -> Iterator[torch.Tensor]:
    """The tensors that an operation writes into."""
    for name in _names_written_to(call.function):
        yield from iterate_tensors(call.named.get(name))


@cache
def _names_written_to(function: OpOverload) -> tuple[str, ...]:
    return tuple(
        argument.name
        for argument in function._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def is_view(call: Call) -> bool:
    """Whether an operation returns a view of its operand."""
    returns = call.function._schema.returns
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write


def _memory(tensor: torch.Tensor) -> int | None:
    """A key for the memory that a tensor lies in; None where it has none."""
    if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return None
    number: int = tensor.untyped_storage()._cdata
    return number


def _layout(tensor: torch.Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor covers all of its memory, in order."""
    size = tensor.untyped_storage().nbytes()
    return tensor.is_contiguous() and tensor.numel() * tensor.element_size() == size


def _places(base: torch.Tensor, offset: int) -> list[int]:
    """The index along each axis of the element at this offset in memory."""
    places = []
    for stride in base.stride():
        places.append(offset // stride)
        offset %= stride
    return places


def _axis_of(base: torch.Tensor, stride: int) -> int | None:
    """The axis of the whole that a stride runs along; None if not a multiple of its stride.

    That is the first axis whose own stride does not exceed it.
    """
    for axis, (length, step) in enumerate(zip(base.shape, base.stride(), strict=True)):
        if length > 1 and stride >= step:
            return axis if stride % step == 0 else None
    return None


def _divides(view: torch.Tensor, runs: Sequence[tuple[int, int]], length: int) -> bool:
    """Whether axes of a view are the factors (rows, columns, ...) of one whole axis, in order."""
    steps = [step for _, step in runs]
    ends = [step * view.shape[axis] for axis, step in runs]
    return len(runs) > 1 and [length, *steps] == [*ends, 1]


def _covers_one(base: torch.Tensor, view: torch.Tensor, along: int) -> bool:
    """Whether a view sees a single index of an axis that none of its own axes runs along.

    It sees more where one of its axes merges several of the whole's.
    """
    lengths = zip(view.shape, view.stride(), strict=True)
    inner = base.stride(along)
    return all((length - 1) * stride < inner for length, stride in lengths if stride <= inner)
