"""A second proof, independent of the tracing rules: zero the readers and compare.

The masked twin ignores what the rules call read, so a mistake in a rule may affect twin and cut
alike. Here the rules contribute nothing but the list of tensor slices to remove. In a copy of the
dense model, the *readers* among these slices are set to zero; they are found by perturbing weights
and watching which values change. A weight that the reading layer computes from its parameters (a
parametrisation such as ``2 w + 0.1``) need not be zero where the parameters are; it is zeroed where
it is computed. Then

1. perturbing any other slice to be removed must leave the outputs unchanged: nothing reads it; and
2. the small model must give the outputs of this copy.

Where the first fails, something besides a consumer's weights depends on the channels: a norm of
weights, a sum, a normalisation. Channels that the rules call mixed are excluded, and the proof
names them as usual.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.channels.cut import Cut
from secateurs.channels.independent import (
    Slice,
    is_all_in,
    other_answers,
    slices_of,
    still_read,
)
from secateurs.channels.proof import Independent
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.proof.differences import TOLERANCE, largest_difference, precision_of
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.interpreter import in_mode
from secateurs.pytorch.tracing.op_call import Arguments, Keywords, iterate_tensors, map_tensors

_NEGLIGIBLE = 0.01
"""Fraction of the tolerance below which a change of the outputs counts as none.

A slice that nothing reads changes nothing at all, and many slices that are each read a little could
add up to more than the tolerance.
"""

_CHANGED = 1e-4
"""Fraction of the largest change above which an element counts as changed."""


NOTHING: Mapping[int, Sequence[Any]] = MappingProxyType({})

Poke = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(values of a slice, the whole tensor) -> other values."""


ZeroMasks = Mapping[int, torch.Tensor]
"""Index of an operation -> mask of the elements of its result to zero."""


class Seen(NamedTuple):
    """An operation's result.

    Attributes:
        is_live: whether it depends on the input.
        values: its values.
    """

    is_live: bool
    values: torch.Tensor


def prove_independently(model: nn.Module, cut: Cut, example_inputs: object) -> Independent:
    """Zero whatever reads the removed channels, and compare outputs.

    Args:
        model: the dense model; unchanged.
        cut: cut of channels that no operation mixes.
        example_inputs: inputs with values; weights that they do not reach are not proven.

    Raises:
        CutError: something else reads the channels, or the outputs differ.
    """
    if not cut:
        return Independent(0, 0.0, 0.0, 0.0)
    zeroed = _ZeroedReaders(model, cut, example_inputs)
    unread = zeroed.find_unread()
    received = zeroed.answers_of(cut_copy(model, cut))
    remaining, difference, scale = zeroed.compare(received)
    tolerance = TOLERANCE.get(precision_of(model), 1e-4) * scale
    if remaining or not difference <= tolerance:
        factors = _ZeroedReaders(model, cut, example_inputs)
        still, other, size = factors.compare(received, by_activations=True)
        if not still:
            remaining, difference, scale, zeroed = still, other, size, factors
            tolerance = TOLERANCE.get(precision_of(model), 1e-4) * scale
    if remaining:
        raise still_read(remaining)
    if not difference <= tolerance:
        raise other_answers(type(model).__name__, zeroed.zero, difference, tolerance)
    return Independent(cut.removed_channels, difference, scale, tolerance, unread)


class _ZeroedReaders:
    """A copy of the dense model, in which the slices that read the others are zeroed.

    Attributes:
        zero: slices that were found to be readers, and are zero.
    """

    def __init__(self, model: nn.Module, cut: Cut, example_inputs: object) -> None:
        self._model = cut_copy(model, Cut(caches=cut.caches)).eval()
        self._tensors = {leaf.name: leaf.tensor for leaf in list_tensors(self._model)}
        self._call = parse_example_inputs(example_inputs, model)
        self._random = torch.Generator().manual_seed(0)
        self._parts = [part for part in slices_of(cut) if _has_values(self._tensors[part.tensor])]
        self.zero: list[Slice] = []
        self._present: Mapping[int, Seen] | None = None  # results of a pass in the present state
        self._computed: set[Slice] = set()  # slices from which a layer computes its weight
        self._zeroed_slices: dict[int, list[Slice]] = {}  # of computed weights, by operation
        self._zeros: dict[int, list[torch.Tensor]] = {}  # of activations, by operation

    # -- outputs

    def answers(self) -> object:
        """The outputs of the copy in its present state."""
        return self.answers_of(self._model, self._zeroed_slices, self._zeros)

    def answers_of(
        self,
        model: nn.Module,
        slices: Mapping[int, Sequence[Slice]] = NOTHING,
        zeros: Mapping[int, Sequence[torch.Tensor]] = NOTHING,
    ) -> object:
        """A model's outputs in eval mode; the model and the inputs stay unchanged."""
        twin = share_tensors(model)
        arguments, keywords = self._inputs()
        with (
            _keep_buffers(twin),
            in_mode(twin),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            torch.manual_seed(0)
            with _ZeroedResults(slices, zeros) if slices or zeros else nullcontext():
                return twin(*arguments, **keywords)

    def _inputs(self) -> tuple[list[object], dict[str, object]]:
        arguments, keywords = self._call
        given = map_tensors(list(arguments), lambda t: t.clone())
        return given, map_tensors(dict(keywords), lambda t: t.clone())

    # -- finding readers

    def compare(
        self, received: object, by_activations: bool = False
    ) -> tuple[list[Slice], float, float]:
        """(slices still read, the largest difference from ``received``, the largest output).

        Args:
            received: outputs of the small model.
            by_activations: also zero activations that are multiplied with others, after a function
                that does not map zero to zero, such as ``elu(x) + 1``.
        """
        remaining = self.silence(by_activations)
        if remaining:
            return remaining, math.inf, 0.0
        return [], *largest_difference(received, self.answers())

    def silence(self, by_activations: bool = False) -> list[Slice]:
        """Zero the readers; return the slices that the outputs still depend on."""
        kinds, remaining = self._silence_readers()
        if by_activations:
            remaining = self._silence_factors(remaining, kinds)
        # Either of two weights may look like the reader: where one is computed from the other, and
        # where two activations are multiplied. It is the reader if zeroing it makes filters unread.
        unsure = [part for part, kind in kinds.items() if kind == "unsure"]
        # A channel that is zero for these inputs does not reveal its readers, of which there may be
        # several.
        inputs = [part for part in unsure if part.axis > 0]
        for parts in [
            *([part] for part in reversed(unsure)),
            inputs,
            *self._factors(remaining, kinds),
        ]:
            if not remaining:
                break
            if self._are_readers(parts, remaining, kinds):
                self._keep_zero(parts)
                remaining = self._filter_still_read(remaining)
        return remaining

    def _are_readers(
        self, parts: Sequence[Slice], remaining: Sequence[Slice], kinds: Mapping[Slice, str]
    ) -> bool:
        """Whether a slice that these may read becomes unread when they are zero."""
        with self._change(parts, lambda part, _: torch.zeros_like(part)):
            still = self._still_read_slices(but=parts)
        return any(
            part not in still and self._may_be_read_by(parts, part, kinds[part])
            for part in remaining
        )

    def _may_be_read_by(self, parts: Sequence[Slice], other: Slice, kind: str) -> bool:
        if kind == "filter":
            return not is_all_in(other, parts)
        # Two weights that are multiplied with each other read each other, and neither is a filter.
        are_weights = all(map(self._is_matrix, [*parts, other]))
        return are_weights and kind == "unsure" and other.tensor not in {p.tensor for p in parts}

    def _silence_readers(self) -> tuple[dict[Slice, str], list[Slice]]:
        """(kind of each slice, slices that the outputs depend on although the readers are zero)."""
        kinds = {part: self._kind(part) for part in self._parts if self._is_matrix(part)}
        self._keep_zero([part for part, kind in kinds.items() if kind == "reader"])
        remaining = self._still_read_slices()
        kinds |= {part: self._kind(part) for part in remaining if part not in kinds}
        # The single row of a layer with one output is no matrix.
        rows = [p for p in remaining if kinds[p] == "reader" and not self._is_matrix(p)]
        self._keep_zero(rows)
        return kinds, self._filter_still_read(remaining) if remaining else []

    def _filter_still_read(self, parts: Sequence[Slice]) -> list[Slice]:
        now = self._still_read_slices()
        return [part for part in parts if part in now]

    def find_unread(self) -> tuple[str, ...]:
        """Layers whose removed filters do not affect the outputs even before readers are zeroed.

        For example, a normalisation with wrong statistics, or an activation, lets nothing through.
        """
        filters: dict[str, list[Slice]] = {}
        for part in self._parts:
            if part.axis == 0 and self._is_matrix(part):
                filters.setdefault(part.layer, []).append(part)
        expected = self.answers()
        return tuple(
            layer for layer, parts in filters.items() if not self._is_read(parts, expected, ())
        )

    def _is_matrix(self, part: Slice) -> bool:
        return sum(size > 1 for size in self._tensors[part.tensor].shape) > 1

    def _keep_zero(self, parts: Iterable[Slice]) -> None:
        for part in parts:
            self.zero.append(part)
            self._present = None
            tensor = self._tensors[part.tensor]
            with torch.no_grad():
                tensor.index_fill_(part.axis, torch.tensor(part.indices, device=tensor.device), 0)
            number = self._last_computing(part) if part in self._computed else None
            if number is not None:
                self._zeroed_slices.setdefault(number, []).append(part)

    def _last_computing(self, part: Slice) -> int | None:
        """The last operation on weights alone whose result changes in exactly this slice.

        None where there is none, or where its result is zero in that slice already.
        """
        before = self._watch_pass(None).seen
        with self._change([part], self._poke):
            changed = self._watch_pass(before).changed
        whole = self._mask_of(part)
        alike = [
            number
            for number, where in changed.items()
            if not before[number].is_live and torch.equal(where.cpu(), whole)
        ]
        if not alike or not bool(before[alike[-1]].values.cpu()[whole].any()):
            return None
        return alike[-1]

    def _mask_of(self, part: Slice) -> torch.Tensor:
        whole = torch.zeros(self._tensors[part.tensor].shape, dtype=torch.bool)
        return whole.index_fill_(part.axis, torch.tensor(part.indices), True)

    def _factors(
        self, remaining: Sequence[Slice], kinds: Mapping[Slice, str]
    ) -> Iterator[list[Slice]]:
        """Filters and biases of a layer, or of its halves or thirds, that may form one factor.

        Filters lie along the first axis of a weight, or along the axis where they were observed.
        """
        layers = list(dict.fromkeys(part.layer for part in remaining))
        for pieces in (1, 2, 3):
            for layer in reversed(layers):
                yield from self._split(self._list_filters(layer, kinds), pieces)
        # Of several layers multiplied with each other, each reads all the others.
        for layer in layers if len(layers) > 2 else ():
            yield [part for part in remaining if part.layer != layer]

    def _list_filters(self, layer: str, kinds: Mapping[Slice, str]) -> list[Slice]:
        return [
            part
            for part in self._parts
            if part.layer == layer
            and (kinds.get(part) == "filter" or (part.axis == 0 and kinds.get(part) != "reader"))
        ]

    def _split(self, parts: Sequence[Slice], pieces: int) -> Iterator[list[Slice]]:
        """The slices in each of so many equal pieces of their axes, where all of them have some."""
        for number in range(pieces if parts else 0):
            piece = [self._piece(part, number, pieces) for part in parts]
            if all(part.indices for part in piece):
                yield piece

    def _silence_factors(self, remaining: list[Slice], kinds: Mapping[Slice, str]) -> list[Slice]:
        """Zero pairs of factors each of which becomes unread when the other's activations are zero.

        Both directions are required: what reads a channel by itself (a norm) stays a reader.
        """
        pieces = [
            (piece, zeros)
            for piece in self._factors(remaining, kinds)
            if (zeros := self._zeros_behind([p for p in piece if self._is_matrix(p)]))
        ]
        for (one, its_zeros), (other, others_zeros) in itertools.combinations(pieces, 2):
            if not remaining:
                break
            if any(is_all_in(part, other) for part in one):
                continue
            if self._becomes_unread(other, its_zeros) and self._becomes_unread(one, others_zeros):
                self._zero_results(its_zeros)
                self._zero_results(others_zeros)
                remaining = self._filter_still_read(remaining)
        return remaining

    def _zeros_behind(self, parts: Sequence[Slice]) -> ZeroMasks | None:
        """Operation -> mask of its result that these slices make, where it is separate."""
        if not parts:
            return None
        before = self._watch_pass(None).seen
        with self._change(parts, self._poke):
            here = self._watch_pass(before, to_end=True).changed
        with self._change([self._rest_of(part) for part in parts], self._poke):
            there = self._watch_pass(before, to_end=True).changed
        zeros = {
            number: lines
            for number in here.keys() & there.keys()
            if before[number].is_live
            and (lines := _lines_apart(here[number], there[number])) is not None
        }
        return zeros or None

    def _becomes_unread(self, parts: Sequence[Slice], zeros: ZeroMasks) -> bool:
        """Whether these slices are read at present, and no longer with zeros there."""
        if not self._is_read(parts, self.answers(), ()):
            return False
        before = {number: list(known) for number, known in self._zeros.items()}
        self._zero_results(zeros)
        try:
            return not self._is_read(parts, self.answers(), ())
        finally:
            self._zeros = before

    def _zero_results(self, zeros: ZeroMasks) -> None:
        for number, where in zeros.items():
            self._zeros.setdefault(number, []).append(where)

    def _piece(self, part: Slice, number: int, pieces: int) -> Slice:
        length = self._tensors[part.tensor].shape[part.axis]
        inside = tuple(i for i in part.indices if i * pieces // length == number)
        return Slice(part.tensor, part.axis, inside)

    def _kind(self, part: Slice) -> str:
        """Classify a slice as 'filter', 'reader' or 'unsure'.

        Compares where values change when the slice is perturbed, and when the rest of the tensor
        is. What removed filters make is separate from what the kept filters make; what a reader
        reads goes into the same sums as the rest.
        """
        rest = self._rest_of(part)
        if self._present is None:
            self._present = self._watch_pass(None).seen
        before = self._present
        with self._change([part], self._poke):
            here = self._watch_pass(before).changed
        if self._computes_weight(part, before, here):
            self._computed.add(part)
        with self._change([rest], self._poke):
            there = self._watch_pass(before).changed
        weights = [n for n in here.keys() & there.keys() if not before[n].is_live]
        if any(bool((here[number] & there[number]).any()) for number in weights):
            return "unsure"  # a computed weight: removed parameters change kept elements of it
        first = {n for found in (here, there) for n in found if before[n].is_live}
        if len(first) != 1 or not first <= here.keys() & there.keys():
            return "unsure"  # the activation read may be zero for these inputs, for example
        (number,) = first
        return "filter" if _lie_apart(here[number], there[number]) else "reader"

    def _computes_weight(
        self, part: Slice, before: Mapping[int, Seen], changed: Mapping[int, torch.Tensor]
    ) -> bool:
        """Whether an operation on weights alone gives a weight of which just this slice changes."""
        inside = self._mask_of(part)
        return any(
            not before[number].is_live and where.shape == inside.shape and inside[where.cpu()].all()
            for number, where in changed.items()
        )

    def _rest_of(self, part: Slice) -> Slice:
        length = self._tensors[part.tensor].shape[part.axis]
        gone = set(part.indices)
        return Slice(part.tensor, part.axis, tuple(i for i in range(length) if i not in gone))

    def _watch_pass(self, before: Mapping[int, Seen] | None, to_end: bool = False) -> _Watch:
        """Run a pass and record each operation's result or, given earlier ones, its changes."""
        twin = share_tensors(self._model)
        arguments, keywords = self._inputs()
        for tensor in iterate_tensors([arguments, keywords]):
            tensor._secateurs_from_input = True  # type: ignore[attr-defined]
        watch = _Watch(before, to_end)
        with (
            _keep_buffers(twin),
            in_mode(twin),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            torch.manual_seed(0)
            try:
                with watch:
                    twin(*arguments, **keywords)
            except _SeenEnoughError:
                pass
        return watch

    # -- effects on the outputs

    def _still_read_slices(self, but: Sequence[Slice] = ()) -> list[Slice]:
        """The slices not zeroed that change the outputs when they are perturbed."""
        zero = [*self.zero, *but]
        parts = [part for part in self._parts if not is_all_in(part, zero)]
        expected = self.answers()
        if not self._is_read(parts, expected, but):
            return []
        return [part for part in parts if self._is_read([part], expected, but)]

    def _is_read(self, parts: Sequence[Slice], expected: object, but: Sequence[Slice]) -> bool:
        with self._change(parts, self._poke, spare=[*self.zero, *but]):
            difference, scale = largest_difference(self.answers(), expected)
        rounding = TOLERANCE.get(precision_of(self._model), 1e-4)
        return difference > _NEGLIGIBLE * rounding * scale

    def _poke(self, values: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(values.shape, generator=self._random).to(values)
        size = whole.abs().mean() + (whole == 0).all()
        return values + size * (0.5 + noise)

    @contextmanager
    def _change(
        self, parts: Sequence[Slice], change: Poke, spare: Sequence[Slice] = ()
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


class _Watch(TorchDispatchMode):
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


def _lie_apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether there is an axis along which no index changes in both."""
    return _lines_apart(one, other) is not None


def _lines_apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """Mask of the first's indices along an axis where no index changes in both; None without one.

    The mask covers whole lines, since a dead activation does not change and still need not be zero.
    """
    for axis in range(one.dim()):
        rest = [at for at in range(one.dim()) if at != axis]
        mine, others = (mask.any(dim=rest) if rest else mask for mask in (one, other))
        if not bool((mine & others).any()):
            return mine.view([-1 if at == axis else 1 for at in range(one.dim())]).expand_as(one)
    return None
