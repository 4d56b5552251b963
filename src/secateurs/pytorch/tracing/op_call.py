"""An aten operation about to run, with its arguments by name."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar, overload

import torch
from torch._ops import OpOverload, OpOverloadPacket

from secateurs.pytorch.tracing.inferred_results import run_without_data
from secateurs.pytorch.tracing.shape_inference import empty_like, infer
from secateurs.pytorch.tracing.without_data import without_data_of

aten = torch.ops.aten

SCALING = {aten.mul, aten.mul_, aten.div, aten.div_}
"""Operations whose result is proportional to a number they are given."""

ADDING = {
    aten.add,
    aten.add_,
    aten.sub,
    aten.sub_,
    aten.rsub,
    aten.full_like,
    aten.fill,
    aten.fill_,
    aten.pow,
    aten.pow_,
    aten.clamp,
    aten.clamp_,
    aten.clamp_min,
    aten.clamp_max,
}
"""Operations that may take a size as an integer without being proportional to it."""

_ADDED = ("other", "value", "fill_value", "exponent", "min", "max")

MOST_TO_COMPARE = 1024
"""Maximum number of elements of a constant that is checked for depending on a size."""

MADE_NEW = {aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty}
"""Operations whose result does not depend on the tensor they are called on."""


Arguments = Sequence[object]
"""Positional arguments of an operation or a forward pass: tensors, numbers, lists of them."""

Keywords = dict[str, object]
"""Keyword arguments of an operation or a forward pass."""

AnyValue = TypeVar("AnyValue")
Number = TypeVar("Number", int, float)


class Call:
    """An aten operation and its arguments.

    The types of arguments and results are known only from the operation's schema, at run time. So
    they are ``Any`` here and in ``Named``: a rule knows the schema of its operation.
    """

    __slots__ = ("_tensors", "arguments", "function", "keywords", "named", "packet", "result")

    def __init__(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> None:
        self.function = function
        self.arguments: Sequence[Any] = arguments
        self.keywords = keywords
        self.packet: OpOverloadPacket = function.overloadpacket
        """The operation, regardless of its overload."""
        self.result: torch.Tensor | None = None
        self._tensors: list[torch.Tensor] | None = None
        self.named = dict(zip(_names(function), arguments, strict=False))
        if keywords:
            self.named |= keywords

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def get(self, name: str, default: object = None) -> Any:
        """The argument of this name, or ``default`` where it was left out or is None."""
        value = self.named.get(name)
        return default if value is None else value

    @property
    def name(self) -> str:
        """'layer_norm' for ``aten.layer_norm.default``."""
        return str(self.packet._qualified_op_name).partition("::")[2]

    def tensors(self) -> list[torch.Tensor]:
        """All tensors among the arguments, those in lists too, in order."""
        if self._tensors is None:
            self._tensors = []
            for value in (*self.arguments, *self.keywords.values()):
                if isinstance(value, torch.Tensor):
                    self._tensors.append(value)
                elif isinstance(value, (list, tuple, dict)):
                    self._tensors += iterate_tensors(value)
        return self._tensors

    def numbers(self, kind: type[Number]) -> list[Number]:
        """Ints or floats among the arguments, those in lists too."""
        found: list[Number] = []
        _add_numbers((*self.arguments, *self.keywords.values()), kind, found)
        return found

    def run(self) -> object:
        """Run it, on the meta device if any operand is there."""
        if any(tensor.is_meta for tensor in self.tensors()):
            first = self.arguments[0] if self.arguments else None
            if isinstance(first, torch.Tensor) and first.is_meta:
                quick = infer(self.packet, self.named)
                if quick is not None:
                    return quick
            outline = without_data_of(self.packet, self.named)
            if outline is not None:
                return outline(self.named)
            arguments = [map_tensors(value, _on_meta) for value in self.arguments]
            keywords = {key: map_tensors(value, _on_meta) for key, value in self.keywords.items()}
            return run_without_data(self.function, arguments, keywords)
        return self.function(*self.arguments, **self.keywords)

    def run_one(self) -> torch.Tensor:
        """Run an operation that returns one tensor."""
        output: Any = self.run()
        made: torch.Tensor = output
        return made

    def with_arguments(self, **changes: object) -> Call:
        """The same call with some arguments, given by name, replaced."""
        return Call(self.function, (), self.named | changes)

    def with_tensors(self, changes: dict[int, torch.Tensor]) -> Call:
        """The same call with some of its tensors, given by index among them, replaced."""
        place = iter(range(len(self.tensors())))

        def replace(tensor: torch.Tensor) -> torch.Tensor:
            return changes.get(next(place), tensor)

        arguments = [map_tensors(value, replace) for value in self.arguments]
        keywords = {key: map_tensors(value, replace) for key, value in self.keywords.items()}
        return Call(self.function, arguments, keywords)


@cache
def name_of(function: OpOverload) -> str:
    """'aten.layer_norm' for ``aten.layer_norm.default``."""
    return str(function.overloadpacket)


@cache
def _names(function: OpOverload) -> tuple[str, ...]:
    """Names of an operation's arguments, in order."""
    return tuple(argument.name for argument in function._schema.arguments)


def iterate_tensors(values: object) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples, dictionaries and data classes, in order."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from iterate_tensors(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from iterate_tensors(value)
    elif is_data_class(values):
        for value in fields_of(values).values():
            yield from iterate_tensors(value)


@overload
def map_tensors(value: AnyValue, function: Callable[[torch.Tensor], torch.Tensor]) -> AnyValue: ...
@overload
def map_tensors(value: object, function: Callable[[torch.Tensor], object]) -> object: ...
def map_tensors(value: object, function: Callable[[torch.Tensor], object]) -> object:
    """Copy nested lists, tuples, dictionaries and data classes with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if type(value) in _WITHOUT_TENSORS:
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        kind: Callable[..., object] = type(value)  # a named tuple takes fields as arguments
        return kind(*(map_tensors(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)([map_tensors(item, function) for item in value])
    if isinstance(value, dict):
        return like(value, {key: map_tensors(item, function) for key, item in value.items()})
    if is_data_class(value):
        items = {key: map_tensors(item, function) for key, item in fields_of(value).items()}
        return with_fields(value, items)
    return value


_WITHOUT_TENSORS = frozenset((bool, int, float, str, type(None), torch.dtype, torch.device))
"""Types of the arguments that most operations take besides tensors."""


def is_data_class(value: object) -> bool:
    """Whether a value is an instance of a data class, such as a user's class of outputs."""
    return hasattr(type(value), "__dataclass_fields__")


def fields_of(value: object) -> dict[str, object]:
    """Name -> value of the fields that an instance of a data class has set."""
    names = type(value).__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def with_fields(value: object, items: dict[str, object]) -> object:
    """Copy an instance of a data class with other values, without running its ``__init__``."""
    made = copy.copy(value)
    for name, item in items.items():
        object.__setattr__(made, name, item)
    return made


def like(value: dict[str, object], items: dict[str, object]) -> dict[str, object]:
    """A dictionary of these items, of the same class if that is a data class, like ModelOutput."""
    return type(value)(**items) if dataclasses.is_dataclass(value) else items


def without_data(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like this one on the meta device."""
    if is_plain(tensor) and tensor.is_contiguous():
        return empty_like(tensor)
    return torch.empty_like(tensor, device="meta")


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is a plain torch.Tensor or Parameter in strided memory."""
    return type(tensor) in _PLAIN and tensor.layout is torch.strided


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_decided_by_data(call: Call) -> bool:
    """Whether values of a tensor decide the result's shape, or are the result."""
    if call.packet is aten.index:
        return any(t is not None and t.dtype in _MASKS for t in call.arguments[1])
    if call.packet is aten.where and len(call.tensors()) == 1 and len(call.arguments) == 1:
        return True  # the indices where a condition holds
    tags = call.function.tags
    return (
        torch.Tag.data_dependent_output in tags
        or torch.Tag.dynamic_output_shape in tags
        or call.name in _OF_LENGTHS_IN_DATA
    )


_MASKS = (torch.bool, torch.uint8)

_OF_LENGTHS_IN_DATA = ("nms", "nonzero_numpy")
"""Operations that PyTorch does not tag as such."""


def without_values(tensor: torch.Tensor) -> torch.Tensor:
    """An input for a dry run: integers and masks as they are, other tensors without data."""
    return without_data(tensor) if tensor.is_floating_point() or tensor.is_complex() else tensor


def numbers_of(call: Call) -> list[float]:
    """The numbers given to an operation that may be computed from a size, by code or by itself.

    An integer factor or term counts too, such as a length that a sum is divided by. A constant of
    several numbers counts by its norm.
    """
    numbers: list[float] = call.numbers(float)
    if call.packet in SCALING:
        numbers += map(float, call.numbers(int))
    elif call.packet in ADDING:
        numbers += [float(n) for name in _ADDED if isinstance(n := call.get(name), int)]
    numbers += [
        size
        for tensor in call.tensors()[call.get("beta", 1) == 0 :]  # with beta 0 the first is unused
        if not hasattr(tensor, "_secateurs_labels")
        and (size := _size_of_constant(tensor, call)) is not None
    ]
    if call.packet is aten.scaled_dot_product_attention and call.get("scale") is None:
        numbers.append(float(call["query"].shape[-1] ** -0.5))
    return numbers


def _size_of_constant(tensor: torch.Tensor, call: Call) -> float | None:
    """The value of a one-element constant, or the norm of a longer one; None if unsuitable."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_complex():
        return None
    if not 0 < tensor.numel() <= MOST_TO_COMPARE:
        return None
    counts = call.packet in SCALING | ADDING and tensor.dtype is not torch.bool
    if not (tensor.is_floating_point() or counts):
        return None
    if tensor.numel() == 1:
        return float(tensor.flatten()[0])
    size = float(tensor.double().norm())
    return None if math.isnan(size) else size


STARTS = {aten.slice: "start", aten.select: "index", aten.narrow: "start"}
"""Operations that select from a position on, and the name of the position's argument."""


def start_of(call: Call) -> tuple[int, int] | None:
    """(axis, position), both non-negative, from which an operation selects; None for others.

    For a strided slice it is where the first step begins; the offset within a step is ignored.
    """
    name = STARTS.get(call.packet)
    at = call.get(name, 0) if name is not None else None
    if not isinstance(at, int):
        return None
    x = call.tensors()[0]
    axis = call.get("dim", 0) % x.dim()
    begin = max(0, at + x.shape[axis]) if at < 0 else min(at, x.shape[axis])
    step = call.get("step", 1) if call.packet is aten.slice else 1
    return axis, begin - begin % step


def run_on_constants(call: Call) -> object:
    """Run an operation on constants; results requested on the meta device are made on the CPU."""
    arguments = [_on_cpu(value) for value in call.arguments]
    keywords = {key: _on_cpu(value) for key, value in call.keywords.items()}
    if call.packet in MADE_NEW and call.tensors()[0].is_meta:  # only its dtype is used
        arguments[0] = torch.empty(0, dtype=call.tensors()[0].dtype)
    return call.function(*arguments, **keywords)


def _on_cpu(value: object) -> object:
    is_meta = isinstance(value, torch.device) and value.type == "meta"
    return torch.device("cpu") if is_meta else value


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else tensor.to("meta")


def _add_numbers(values: Sequence[object], kind: type[Number], found: list[Number]) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _add_numbers(value, kind, found)
        elif isinstance(value, kind) and not isinstance(value, bool):
            found.append(value)
