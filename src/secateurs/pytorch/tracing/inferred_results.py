"""Results of operations on tensors without data, inferred once for all calls that are alike.

PyTorch infers most results in Python: two milliseconds for a linear layer with a bias, eight for an
attention, a third of a second for an LSTM. A network repeats its layers, and dry runs repeat the
network, so the same question comes up again and again. The answer depends on the shapes, strides
and dtypes of the operands and on the other arguments alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch._ops import OpOverload

MOST_KEPT = 4096
"""Maximum number of results that are kept, those of the latest calls."""


class _Outline(NamedTuple):
    """What the result of an operation depends on in a tensor without data."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class _Items(NamedTuple):
    """A list or a tuple, by what it holds."""

    kind: type
    items: tuple[object, ...]


class _Plain(NamedTuple):
    """A value other than a tensor. Its type counts: 1, 1.0 and True are equal."""

    kind: type
    value: object


def run_without_data(
    function: OpOverload, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    """Run an operation whose tensors are all on the meta device, or make what it gave before."""
    outlines = _outlines(function, arguments, keywords)
    made = None if outlines is None else _infer(function, *outlines)
    return function(*arguments, **keywords) if made is None else _restore(made)


def _outlines(
    function: OpOverload, arguments: Sequence[object], keywords: Mapping[str, object]
) -> tuple[object, ...] | None:
    """All that a result depends on; None where it is not a new tensor, or something is unknown."""
    if not _makes_new(function) or torch.is_grad_enabled():
        return None
    try:
        given = tuple(map(_outline, arguments))
        named = tuple((name, _outline(value)) for name, value in keywords.items())
    except _UnknownError:
        return None
    return given, named, torch.get_default_dtype()


class _UnknownError(Exception):
    """An argument of a kind whose effect on the result is not known."""


@cache
def _makes_new(function: OpOverload) -> bool:
    """Whether the results of an operation are new tensors, by its schema."""
    schema = function._schema
    return not schema.is_mutable and all(one.alias_info is None for one in schema.returns)


def _outline(value: object) -> object:
    kind = type(value)
    if kind in (torch.Tensor, torch.nn.Parameter):
        return _outline_tensor(value)  # type: ignore[arg-type]
    if kind in (list, tuple):
        return _Items(kind, tuple(map(_outline, value)))  # type: ignore[call-overload]
    if kind in _PLAIN:
        return _Plain(kind, value)
    raise _UnknownError


def _outline_tensor(tensor: torch.Tensor) -> _Outline:
    is_usual = tensor.is_meta and tensor.layout is torch.strided
    if not is_usual or tensor.is_conj() or tensor.is_neg():
        raise _UnknownError
    return _Outline(tuple(tensor.shape), tensor.stride(), tensor.dtype)


_PLAIN = frozenset(
    (
        *(bool, int, float, complex, str, type(None)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    )
)
"""Types of arguments that are what they are equal to."""


@lru_cache(maxsize=MOST_KEPT)
def _infer(
    function: OpOverload,
    given: tuple[object, ...],
    named: tuple[tuple[str, object], ...],
    default_dtype: torch.dtype,
) -> object:
    """Outlines of an operation's results; None where they may share memory or have data."""
    del default_dtype  # a part of the key: integers are divided into it
    arguments = [_restore(value) for value in given]
    output = function(*arguments, **{name: _restore(value) for name, value in named})
    try:
        made = _outline(output)
    except _UnknownError:
        return None
    results = list(_tensors_in(output))
    memory = {tensor.untyped_storage()._cdata for tensor in (*results, *_tensors_in(arguments))}
    used = {tensor.untyped_storage()._cdata for tensor in _tensors_in(arguments)}
    is_new = len(memory) == len(results) + len(used)
    return made if is_new else None


def _tensors_in(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _restore(outline: object) -> object:
    """A value that has this outline."""
    if isinstance(outline, _Outline):
        return outline.make()
    if isinstance(outline, _Items):
        return outline.kind([_restore(item) for item in outline.items])
    return outline.value if isinstance(outline, _Plain) else outline
