"""A copy of a model whose weights are perturbed or zeroed, slice by slice, to see what changes.

For the proof that is independent of the tracing rules: all it knows of a model is which values
change in a forward pass. The slices may be zeroed where they are, in the copy's weights; where a
layer computes its weight from parameters, in the computed weight; or where activations are
multiplied, in the results of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.channels.cut import Cut
from secateurs.channels.independent import Slice
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.model.outputs import select_used
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.proof.differences import TOLERANCE, precision_of
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.interpreter import in_mode
from secateurs.pytorch.tracing.op_call import Arguments, Keywords, iterate_tensors, map_tensors

_CHANGED = 1e-4
"""Fraction of the largest change above which an element counts as changed."""

_NOTHING: Mapping[int, Sequence[Any]] = MappingProxyType({})

ZeroMasks = Mapping[int, torch.Tensor]
"""Index of an operation -> mask of the elements of its result to zero."""

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(values of a slice, the whole tensor) -> other values."""


class Seen(NamedTuple):
    """An operation's result.

    Attributes:
        is_live: whether it depends on the input.
        values: its values.
    """

    is_live: bool
    values: torch.Tensor


class PerturbedCopy:
    """A copy of a model, in eval mode, whose slices can be perturbed and zeroed.

    Attributes:
        rounding: relative difference that rounding alone may make in the outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        cut: Cut,
        example_inputs: object,
        wanted: Sequence[str] | None = None,
    ) -> None:
        """Copy the model.

        Args:
            model: the dense model; unchanged.
            cut: cut whose caches the copy is made without.
            example_inputs: inputs of every pass.
            wanted: names of the outputs in use; None for all.
        """
        self._wanted = wanted
        self._model = cut_copy(model, Cut(caches=cut.caches)).eval()
        self._tensors = {leaf.name: leaf.tensor for leaf in list_tensors(self._model)}
        self._call = parse_example_inputs(example_inputs, model)
        self._random = torch.Generator().manual_seed(0)
        self.rounding = TOLERANCE.get(precision_of(self._model), 1e-4)
        self._zeroed_slices: dict[int, list[Slice]] = {}  # of computed weights, by operation
        self._zeros: dict[int, list[torch.Tensor]] = {}  # of activations, by operation

    # -- slices

    def has_values(self, part: Slice) -> bool:
        """Whether a slice is of a floating-point or complex tensor, so that it can be perturbed."""
        return _has_values(self._tensors[part.tensor])

    def is_matrix(self, part: Slice) -> bool:
        """Whether a slice is of a tensor of several axes longer than one."""
        return sum(size > 1 for size in self._tensors[part.tensor].shape) > 1

    def mask_of(self, part: Slice) -> torch.Tensor:
        """Mask of a slice in its tensor."""
        whole = torch.zeros(self._tensors[part.tensor].shape, dtype=torch.bool)
        return whole.index_fill_(part.axis, torch.tensor(part.indices), True)

    def rest_of(self, part: Slice) -> Slice:
        """The remainder of a slice's tensor."""
        length = self._tensors[part.tensor].shape[part.axis]
        gone = set(part.indices)
        return Slice(part.tensor, part.axis, tuple(i for i in range(length) if i not in gone))

    def split(self, parts: Sequence[Slice], pieces: int) -> Iterator[list[Slice]]:
        """What of the slices lies in each of several equal pieces of their axes.

        Pieces in which one of the slices has nothing are left out.
        """
        for number in range(pieces if parts else 0):
            piece = [self._cut_piece(part, number, pieces) for part in parts]
            if all(part.indices for part in piece):
                yield piece

    def _cut_piece(self, part: Slice, number: int, pieces: int) -> Slice:
        length = self._tensors[part.tensor].shape[part.axis]
        inside = tuple(i for i in part.indices if i * pieces // length == number)
        return Slice(part.tensor, part.axis, inside)

    # -- other values, for a time and for good

    def perturb(
        self, parts: Sequence[Slice], spare: Sequence[Slice] = ()
    ) -> AbstractContextManager[None]:
        """Context in which these slices have other values, except in the slices to spare."""
        return self._change(parts, self._poke, spare)

    def zero(self, parts: Sequence[Slice]) -> AbstractContextManager[None]:
        """Context in which these slices are zero."""
        return self._change(parts, lambda values, _: torch.zeros_like(values))

    def keep_zero(self, part: Slice) -> None:
        """Zero a slice for good."""
        tensor = self._tensors[part.tensor]
        with torch.no_grad():
            tensor.index_fill_(part.axis, torch.tensor(part.indices, device=tensor.device), 0)

    def keep_computed_zero(self, number: int, part: Slice) -> None:
        """Zero a slice of a computed weight, the result of this operation, for good."""
        self._zeroed_slices.setdefault(number, []).append(part)

    def keep_results_zero(self, zeros: ZeroMasks) -> None:
        """Zero elements of operations' results for good."""
        for number, where in zeros.items():
            self._zeros.setdefault(number, []).append(where)

    @contextmanager
    def zero_results(self, zeros: ZeroMasks) -> Iterator[None]:
        """Context in which elements of operations' results are zero."""
        before = {number: list(known) for number, known in self._zeros.items()}
        self.keep_results_zero(zeros)
        try:
            yield
        finally:
            self._zeros = before

    def _poke(self, values: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(values.shape, generator=self._random).to(values)
        size = whole.abs().mean() + (whole == 0).all()
        return values + size * (0.5 + noise)

    @contextmanager
    def _change(
        self, parts: Sequence[Slice], change: Change, spare: Sequence[Slice] = ()
    ) -> Iterator[None]:
        """Context in which these slices have other values, except in the slices to spare."""
        before = {name: self._tensors[name].detach().clone() for name in {p.tensor for p in parts}}
        with torch.no_grad():
            for part in parts:
                tensor = self._tensors[part.tensor]
                index = torch.tensor(part.indices, device=tensor.device)
                values = tensor.index_select(part.axis, index)
                tensor.index_copy_(part.axis, index, change(values, before[part.tensor]))
            for part in spare:
                if part.tensor in before:
                    tensor = self._tensors[part.tensor]
                    index = torch.tensor(part.indices, device=tensor.device)
                    values = before[part.tensor].index_select(part.axis, index)
                    tensor.index_copy_(part.axis, index, values)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in before.items():
                    self._tensors[name].copy_(values)

    # -- passes

    def outputs(self) -> object:
        """The outputs of the copy in its present state."""
        return self.outputs_of(self._model, self._zeroed_slices, self._zeros)

    def outputs_of(
        self,
        model: nn.Module,
        slices: Mapping[int, Sequence[Slice]] = _NOTHING,
        zeros: Mapping[int, Sequence[torch.Tensor]] = _NOTHING,
    ) -> object:
        """A model's outputs in eval mode; the model and the inputs stay unchanged."""
        twin = share_tensors(model)
        arguments, keywords = self._inputs()
        zeroed = _ZeroedResults(slices, zeros) if slices or zeros else nullcontext()
        with _repeatable(twin), zeroed:
            return select_used(twin(*arguments, **keywords), self._wanted)

    def _inputs(self) -> tuple[list[object], dict[str, object]]:
        arguments, keywords = self._call
        given = map_tensors(list(arguments), lambda t: t.clone())
        return given, map_tensors(dict(keywords), lambda t: t.clone())

    def watch(self, before: Mapping[int, Seen] | None = None, to_end: bool = False) -> PassWatch:
        """Run a pass and record each operation's result or, given earlier ones, its changes."""
        twin = share_tensors(self._model)
        arguments, keywords = self._inputs()
        for tensor in iterate_tensors([arguments, keywords]):
            tensor._secateurs_from_input = True  # type: ignore[attr-defined]
        watch = PassWatch(before, to_end)
        with suppress(_SeenEnoughError), _repeatable(twin), watch:
            twin(*arguments, **keywords)
        return watch


@contextmanager
def _repeatable(model: nn.Module) -> Iterator[None]:
    """Run passes in here in eval mode, all with the same buffers and random numbers."""
    fork = torch.random.fork_rng(devices=[])
    with _keep_buffers(model), in_mode(model), torch.no_grad(), fork:
        torch.manual_seed(0)
        yield


@contextmanager
def _keep_buffers(model: nn.Module) -> Iterator[None]:
    """Restore buffers that a pass writes into, such as those of fake quantisation's observers."""
    kept = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, version, values in kept:
            if buffer._version != version and buffer.shape == values.shape:
                buffer.copy_(values)


class _SeenEnoughError(Exception):
    """The first value that depends on the input has changed: the rest of the pass is not needed."""


class PassWatch(TorchDispatchMode):
    """Records each operation's result, whether it depends on the input, and where it changed."""

    def __init__(self, before: Mapping[int, Seen] | None, to_end: bool = False) -> None:
        super().__init__()
        self._before = before
        self._to_end = to_end
        self._number = -1
        self.seen: dict[int, Seen] = {}
        self.changed: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        given = list(iterate_tensors([list(args), kwargs or {}]))
        is_live = any(hasattr(tensor, "_secateurs_from_input") for tensor in given)
        output = func(*args, **(kwargs or {}))
        self._number += 1
        for tensor in iterate_tensors(output):
            if is_live:
                tensor._secateurs_from_input = True  # type: ignore[attr-defined]
        first = next(iterate_tensors(output), None)
        if first is not None and first.layout is torch.strided and _has_values(first):
            self._note(first, is_live)
        return output

    def _note(self, result: torch.Tensor, is_live: bool) -> None:
        if self._before is None:
            self.seen[self._number] = Seen(is_live, result.detach().clone())
            return
        known = self._before.get(self._number)
        if known is None or known.values.shape != result.shape or not result.numel():
            return
        change = (result - known.values).abs()
        most = change.max().item()
        if not math.isfinite(most) or most <= 1e-6 * max(known.values.abs().max().item(), 1e-12):
            return
        self.changed[self._number] = change > _CHANGED * most
        if is_live and not self._to_end:
            raise _SeenEnoughError


class _ZeroedResults(TorchDispatchMode):
    """Zeroes slices of some operations' results: of computed weights, and of activations."""

    def __init__(
        self,
        slices: Mapping[int, Sequence[Slice]],
        zeros: Mapping[int, Sequence[torch.Tensor]],
    ) -> None:
        super().__init__()
        self._zeroed_slices = slices
        self._zeros = zeros
        self._number = -1

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        self._number += 1
        for part in self._zeroed_slices.get(self._number, ()):
            computed = next(iterate_tensors(output))
            indices = torch.tensor(part.indices, device=computed.device)
            computed.index_fill_(part.axis, indices, 0)
        for where in self._zeros.get(self._number, ()):
            next(iterate_tensors(output)).masked_fill_(where, 0)
        return output


def _has_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor is floating-point or complex, so that it can be perturbed."""
    return tensor.is_floating_point() or tensor.is_complex()
