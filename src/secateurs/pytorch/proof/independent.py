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
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from secateurs.channels.cut import Cut
from secateurs.channels.independent import (
    Slice,
    is_all_in,
    other_answers,
    slices_of,
    still_read,
)
from secateurs.channels.proof import Independent
from secateurs.pytorch.proof.differences import TOLERANCE, largest_difference, precision_of
from secateurs.pytorch.proof.perturbed_copy import PerturbedCopy, Seen, ZeroMasks
from secateurs.pytorch.surgery.slicing import cut_copy

_NEGLIGIBLE = 0.01
"""Fraction of the tolerance below which a change of the outputs counts as none.

A slice that nothing reads changes nothing at all, and many slices that are each read a little could
add up to more than the tolerance.
"""


def prove_independently(
    model: nn.Module, cut: Cut, example_inputs: object, outputs: Sequence[str] | None = None
) -> Independent:
    """Zero whatever reads the removed channels, and compare outputs.

    Args:
        model: the dense model; unchanged.
        cut: cut of channels that no operation mixes.
        example_inputs: inputs with values; weights that they do not reach are not proven.
        outputs: names of the outputs in use; None for all.

    Raises:
        CutError: something else reads the channels, or the outputs differ.
    """
    if not cut:
        return Independent(0, 0.0, 0.0, 0.0)
    zeroed = _ZeroedReaders(model, cut, example_inputs, outputs)
    unread = zeroed.find_unread()
    received = zeroed.outputs_of(cut_copy(model, cut))
    remaining, difference, scale = zeroed.compare(received)
    tolerance = TOLERANCE.get(precision_of(model), 1e-4) * scale
    if remaining or not difference <= tolerance:
        factors = _ZeroedReaders(model, cut, example_inputs, outputs)
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

    def __init__(
        self,
        model: nn.Module,
        cut: Cut,
        example_inputs: object,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._copy = PerturbedCopy(model, cut, example_inputs, outputs)
        self._parts = [part for part in slices_of(cut) if self._copy.has_values(part)]
        self.zero: list[Slice] = []
        self._present: Mapping[int, Seen] | None = None  # results of a pass in the present state
        self._computed: set[Slice] = set()  # slices from which a layer computes its weight

    def outputs_of(self, model: nn.Module) -> object:
        """The outputs of another model for the same inputs."""
        return self._copy.outputs_of(model)

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
        return [], *largest_difference(received, self._copy.outputs())

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
        with self._copy.zero(parts):
            still = self._still_read_slices(but=parts)
        return any(
            part not in still and self._may_be_read_by(parts, part, kinds[part])
            for part in remaining
        )

    def _may_be_read_by(self, parts: Sequence[Slice], other: Slice, kind: str) -> bool:
        if kind == "filter":
            return not is_all_in(other, parts)
        # Two weights that are multiplied with each other read each other, and neither is a filter.
        are_weights = all(map(self._copy.is_matrix, [*parts, other]))
        return are_weights and kind == "unsure" and other.tensor not in {p.tensor for p in parts}

    def _silence_readers(self) -> tuple[dict[Slice, str], list[Slice]]:
        """(kind of each slice, slices that the outputs depend on although the readers are zero)."""
        kinds = {part: self._kind(part) for part in self._parts if self._copy.is_matrix(part)}
        self._keep_zero([part for part, kind in kinds.items() if kind == "reader"])
        remaining = self._still_read_slices()
        kinds |= {part: self._kind(part) for part in remaining if part not in kinds}
        # The single row of a layer with one output is no matrix.
        rows = [p for p in remaining if kinds[p] == "reader" and not self._copy.is_matrix(p)]
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
            if part.axis == 0 and self._copy.is_matrix(part):
                filters.setdefault(part.layer, []).append(part)
        expected = self._copy.outputs()
        return tuple(
            layer for layer, parts in filters.items() if not self._is_read(parts, expected, ())
        )

    def _keep_zero(self, parts: Iterable[Slice]) -> None:
        for part in parts:
            self.zero.append(part)
            self._present = None
            self._copy.keep_zero(part)
            number = self._last_computing(part) if part in self._computed else None
            if number is not None:
                self._copy.keep_computed_zero(number, part)

    def _last_computing(self, part: Slice) -> int | None:
        """The last operation on weights alone whose result changes in exactly this slice.

        None where there is none, or where its result is zero in that slice already.
        """
        before = self._copy.watch().seen
        with self._copy.perturb([part]):
            changed = self._copy.watch(before).changed
        whole = self._copy.mask_of(part)
        alike = [
            number
            for number, where in changed.items()
            if not before[number].is_live and torch.equal(where.cpu(), whole)
        ]
        if not alike or not bool(before[alike[-1]].values.cpu()[whole].any()):
            return None
        return alike[-1]

    def _factors(
        self, remaining: Sequence[Slice], kinds: Mapping[Slice, str]
    ) -> Iterator[list[Slice]]:
        """Filters and biases of a layer, or of its halves or thirds, that may form one factor.

        Filters lie along the first axis of a weight, or along the axis where they were observed.
        """
        layers = list(dict.fromkeys(part.layer for part in remaining))
        for pieces in (1, 2, 3):
            for layer in reversed(layers):
                yield from self._copy.split(self._list_filters(layer, kinds), pieces)
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

    def _silence_factors(self, remaining: list[Slice], kinds: Mapping[Slice, str]) -> list[Slice]:
        """Zero pairs of factors each of which becomes unread when the other's activations are zero.

        Both directions are required: what reads a channel by itself (a norm) stays a reader.
        """
        pieces = [
            (piece, zeros)
            for piece in self._factors(remaining, kinds)
            if (zeros := self._zeros_behind([p for p in piece if self._copy.is_matrix(p)]))
        ]
        for (one, its_zeros), (other, others_zeros) in itertools.combinations(pieces, 2):
            if not remaining:
                break
            if any(is_all_in(part, other) for part in one):
                continue
            if self._becomes_unread(other, its_zeros) and self._becomes_unread(one, others_zeros):
                self._copy.keep_results_zero(its_zeros)
                self._copy.keep_results_zero(others_zeros)
                remaining = self._filter_still_read(remaining)
        return remaining

    def _zeros_behind(self, parts: Sequence[Slice]) -> ZeroMasks | None:
        """Operation -> mask of its result that these slices make, where it is separate."""
        if not parts:
            return None
        before = self._copy.watch().seen
        with self._copy.perturb(parts):
            here = self._copy.watch(before, to_end=True).changed
        with self._copy.perturb([self._copy.rest_of(part) for part in parts]):
            there = self._copy.watch(before, to_end=True).changed
        zeros = {
            number: lines
            for number in here.keys() & there.keys()
            if before[number].is_live
            and (lines := _lines_apart(here[number], there[number])) is not None
        }
        return zeros or None

    def _becomes_unread(self, parts: Sequence[Slice], zeros: ZeroMasks) -> bool:
        """Whether these slices are read at present, and no longer with zeros there."""
        if not self._is_read(parts, self._copy.outputs(), ()):
            return False
        with self._copy.zero_results(zeros):
            return not self._is_read(parts, self._copy.outputs(), ())

    def _kind(self, part: Slice) -> str:
        """Classify a slice as 'filter', 'reader' or 'unsure'.

        Compares where values change when the slice is perturbed, and when the rest of the tensor
        is. What removed filters make is separate from what the kept filters make; what a reader
        reads goes into the same sums as the rest.
        """
        rest = self._copy.rest_of(part)
        if self._present is None:
            self._present = self._copy.watch().seen
        before = self._present
        with self._copy.perturb([part]):
            here = self._copy.watch(before).changed
        if self._computes_weight(part, before, here):
            self._computed.add(part)
        with self._copy.perturb([rest]):
            there = self._copy.watch(before).changed
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
        inside = self._copy.mask_of(part)
        return any(
            not before[number].is_live and where.shape == inside.shape and inside[where.cpu()].all()
            for number, where in changed.items()
        )

    # -- effects on the outputs

    def _still_read_slices(self, but: Sequence[Slice] = ()) -> list[Slice]:
        """The slices not zeroed that change the outputs when they are perturbed."""
        zero = [*self.zero, *but]
        parts = [part for part in self._parts if not is_all_in(part, zero)]
        expected = self._copy.outputs()
        if not self._is_read(parts, expected, but):
            return []
        return [part for part in parts if self._is_read([part], expected, but)]

    def _is_read(self, parts: Sequence[Slice], expected: object, but: Sequence[Slice]) -> bool:
        with self._copy.perturb(parts, spare=[*self.zero, *but]):
            difference, scale = largest_difference(self._copy.outputs(), expected)
        return difference > _NEGLIGIBLE * self._copy.rounding * scale


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
