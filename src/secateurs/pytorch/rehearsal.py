"""A cut tried out on shapes alone, to find sizes that a forward pass has baked in.

Labels say what a cut does to every shape. Whether the user's code agrees is seen by running it: a
cut of one channel from every group is made on tensors without data, the model is run, and each
operation's result is held against the shape the labels foretell. Where they differ, an integer in
the code did not follow; the channels concerned are frozen, with the line that blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._ops import OpOverload

from secateurs.channels.labels import Ids, Solution
from secateurs.pytorch import rules
from secateurs.pytorch.counted import Counted, users_line
from secateurs.pytorch.rules.registry import CONSTANTS
from secateurs.pytorch.tracer import Axes, Call, Operation, made_for_real, tensors_in


@dataclass(frozen=True, slots=True)
class Blocked:
    """Channels that cannot go because a size did not follow, and where."""

    units: Ids
    reason: str


class OffCourseError(Exception):
    """The small model's operations are no longer those of the dense one."""


class Rehearsal(Counted):
    """Runs the small model on tensors without data and compares shapes with those foretold.

    A wrong result is replaced by one of the foretold shape, so that one run finds every blocking
    line.
    """

    def __init__(
        self, operations: Sequence[Operation], solution: Solution, alive: NDArray[np.bool_]
    ) -> None:
        super().__init__(rules.is_whole)
        self._operations = operations
        self._stays = solution.kept(alive)
        self.blocked: list[Blocked] = []
        self.foreign: list[str] = []
        """Lines where a size went wrong that none of the channels there explains."""

    def step(self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        call = Call(function, arguments, keywords)
        if self.index >= len(self._operations):
            raise OffCourseError
        operation = self._operations[self.index]
        if operation.name != str(function.overloadpacket):
            raise OffCourseError
        if call.packet in CONSTANTS or not any(tensor.is_meta for tensor in call.tensors()):
            return made_for_real(call)
        try:
            output = call.run()
        except (RuntimeError, IndexError, ValueError, TypeError):
            self._block(call, operation, [])
            return self._foretold(call, operation)
        tensors = list(tensors_in(output))
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if shapes != [self._shape(shape, axes) for shape, axes in operation.outputs]:
            self._block(call, operation, shapes)
            return self._foretold(call, operation)
        return output

    @property
    def current(self) -> Operation:
        """The operation that ran last."""
        return self._operations[min(self.index, len(self._operations) - 1)]

    def _shape(self, dense: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
        shape = list(dense)
        for axis, units in axes.items():
            shape[axis] = int(self._stays[units].sum())
        return tuple(shape)

    def _foretold(self, call: Call, operation: Operation) -> Any:
        first = call.tensors()[0]
        if call.function._schema.is_mutable:
            return first
        made = [
            torch.empty(self._shape(shape, axes), dtype=first.dtype, device="meta")
            for shape, axes in operation.outputs
        ]
        return made[0] if len(made) == 1 else tuple(made)

    def _block(self, call: Call, operation: Operation, shapes: list[tuple[int, ...]]) -> None:
        """Blame the axes whose length is still the dense one; if none is, all that differ."""
        wrong: list[Ids] = []
        stuck: list[tuple[int, Ids]] = []
        for place, (dense, axes) in enumerate(operation.outputs):
            foretold = self._shape(dense, axes)
            got = shapes[place] if shapes else _asked_shape(call, len(dense))
            for axis, units in axes.items():
                if foretold[axis] == dense[axis] or (got and got[axis] == foretold[axis]):
                    continue
                if got[axis] == dense[axis] if got else dense[axis] in _integers(call.arguments):
                    stuck.append((dense[axis], units))
                else:
                    wrong.append(units)
        line = users_line()
        self.blocked += [
            Blocked(units, f"the number {size} is baked in at {line}") for size, units in stuck
        ]
        if not stuck:
            reason = f"a size does not follow at {line}"
            self.blocked += [Blocked(units, reason) for units in wrong]
            self.foreign += [] if wrong else [reason]


def rehearse(
    small: nn.Module,
    operations: Sequence[Operation],
    solution: Solution,
    alive: NDArray[np.bool_],
    arguments: Sequence[Any],
    keywords: dict[str, Any],
) -> tuple[list[Blocked], list[str]]:
    """What blocks this cut, and lines that block it for channels yet to be found.

    Both are empty if the small model runs and every shape is as foretold.

    Args:
        small: the cut model, on the meta device.
        operations: of the dense model's forward pass.
        solution: of its equations.
        alive: the atoms that stay.
        arguments: of the forward pass, on the meta device.
        keywords: likewise.
    """
    rehearsal = Rehearsal(operations, solution, alive)
    try:
        rehearsal.run(small, arguments, keywords)
    except Exception as error:  # noqa: BLE001 - whatever a user's forward raises
        if not rehearsal.blocked and not rehearsal.foreign:
            units = [u for _, axes in rehearsal.current.outputs for u in axes.values()]
            reason = f"its forward raised at {_line_of(error)}: {_first_line(error)}"
            rehearsal.blocked += [Blocked(u, reason) for u in units]
            rehearsal.foreign += [] if units else [reason]
    return rehearsal.blocked, rehearsal.foreign


def _asked_shape(call: Call, rank: int) -> tuple[int, ...] | None:
    """The shape a failed reshape, view or expand was told to make."""
    for value in [*call.arguments[1:], *call.keywords.values()]:
        is_shape = isinstance(value, (list, tuple)) and len(value) == rank
        if is_shape and all(isinstance(size, int) for size in value):
            return tuple(value)
    return None


def _integers(values: Any) -> Iterator[int]:
    """The whole numbers among arguments, in lists too."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _integers(value)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield values


def _line_of(error: BaseException) -> str:
    """Where, in the user's code, a forward pass raised."""
    trail = error.__traceback__
    place = "an unknown line"
    while trail is not None:
        name = trail.tb_frame.f_globals.get("__name__", "")
        if not re.match(r"torch(\.|$)|secateurs\.pytorch", name):
            place = f"{trail.tb_frame.f_code.co_filename}:{trail.tb_lineno}"
        trail = trail.tb_next
    return place


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
