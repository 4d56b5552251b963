"""Find the weights that a tensor is proportional to, so that a factor can be moved into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateurs.channels.equations import Ids
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Labels

WeightPart = tuple[ModelTensor, int, Ids]
"""A weight, one of its axes, and the indices there."""

Parts = list[WeightPart] | None
"""The weights that a tensor is proportional to; None if unknown."""

PICKS = {
    aten.select,
    aten.unbind,
    aten.chunk,
    aten.split,
    aten.split_with_sizes,
    aten.tensor_split,
    aten.slice,
    aten.narrow,
}
SEVERAL = {aten.unbind, aten.chunk, aten.split, aten.split_with_sizes, aten.tensor_split}
"""Those that give all pieces at once."""

MOVES = PICKS | {
    aten.view,
    aten._unsafe_view,
    aten.reshape,
    aten.permute,
    aten.transpose,
    aten.t,
    aten.swapaxes,
    aten.movedim,
    aten.unsqueeze,
    aten.squeeze,
    aten.flatten,
    aten.unflatten,
    aten.roll,
    aten.clone,
    aten.contiguous,
    aten.alias,
    aten.detach,
    aten.to,
    aten.type_as,
    aten.dropout,
    aten.expand,
    aten.repeat,
}
PRODUCTS = {aten.matmul, aten.bmm, aten.mm, aten.einsum, aten.mul}
"""Operations whose result is proportional to each of their operands."""

LINEAR = {aten.sum, aten.mean, aten.index_select, aten.gather}
"""Operations whose result is proportional to the whole operand, wherever elements end up."""

NORMS = {aten.layer_norm, aten.rms_norm, aten.batch_norm, aten.group_norm}
CHANNEL_AXIS = {
    aten.linear: -1,
    aten.conv1d: 1,
    aten.conv2d: 1,
    aten.conv3d: 1,
    aten.layer_norm: -1,
    aten.rms_norm: -1,
    aten.batch_norm: 1,
    aten.group_norm: 1,
}
"""Operations whose result is proportional to their weights -> axis of their filters."""


def parts_before(labels: Labels) -> list[WeightPart] | None:
    """The weights that a tensor is proportional to; None if unknown.

    The values on the way must not be read elsewhere, since other readers would see the factor too.
    """
    walk = _Walk()
    parts = walk.back(labels, None, [])
    return None if walk.is_read_elsewhere() else parts


Moves = list[tuple[Call, Labels]]
"""Movements of values with the labels of their results, first to last."""


class _Walk:
    """Walks back from a tensor to the weights that it was computed from."""

    def __init__(self) -> None:
        self._met: dict[int, Labels] = {}
        self._readers: dict[int, set[tuple[int, int]]] = {}

    def is_read_elsewhere(self) -> bool:
        """Whether an operation off the walked path reads a tensor on it.

        Tensors that are only sliced are exempt: each reader may take a slice of its own.
        """
        return any(known.uses > len(self._readers[key]) for key, known in self._met.items())

    def back(self, labels: Labels, reader: Labels | None, moves: Moves, at: int = 0) -> Parts:
        """Go back from a tensor that an operation reads.

        Args:
            labels: labels of the tensor.
            reader: labels of that operation's result; None at the start.
            moves: movements from here to the tensor in question.
            at: index of the operand.
        """
        is_read = self._readers.setdefault(id(labels), set())
        is_read.add((id(reader.call) if reader is not None else 0, at))
        call = labels.call
        picks = any(move.packet in PICKS for move, _ in moves)
        if labels.leaf is not None:
            self._met[id(labels)] = labels
            return [(labels.leaf, 0, np.arange(labels.leaf.tensor.shape[0]))]
        if call is None:
            return None
        if call.packet in MOVES:
            if not (moves and moves[0][0].packet in PICKS):
                self._met[id(labels)] = labels
            return self.back(labels.sources[0], labels, [(call, labels), *moves])
        if not picks:
            self._met[id(labels)] = labels
        return self._through(call, labels, moves, picks)

    def _through(self, call: Call, labels: Labels, moves: Moves, picks: bool) -> Parts:
        """Go back through a computing operation; ``picks``: only part of its result is used."""
        if call.packet in CHANNEL_AXIS:
            axis = CHANNEL_AXIS[call.packet]
            reached = _find_reached(call, moves, axis)
            if picks and _has_other_pieces(labels, moves, axis, reached):
                return None
            return _rows(_find_scaled(labels), reached)
        if call.packet in (aten.mul, aten.div, aten.neg) and len(labels.sources) == 1:
            return self.back(labels.sources[0], labels, moves)
        if call.packet in PRODUCTS | LINEAR and not picks:
            return self.back(labels.sources[0], labels, [])  # movements do not matter for all of it
        if call.packet is aten.cat and not picks:
            return self._all(labels)
        if call.packet is aten.add and len(labels.sources) == 2:
            return self._both(labels, moves)
        return None

    def _all(self, labels: Labels) -> Parts:
        """A concatenation is proportional to the weights of all its pieces."""
        pieces = [self.back(one, labels, [], at) for at, one in enumerate(labels.sources)]
        return [part for parts in pieces for part in parts or ()] if all(pieces) else None

    def _both(self, labels: Labels, moves: Moves) -> Parts:
        """A sum is proportional to the weights that both of its terms are proportional to."""
        sources = labels.sources
        if any(source.leaf is not None for source in sources):
            leaf = next(source.leaf for source in sources if source.leaf is not None)
            other = next(source for source in sources if source.leaf is None)
            parts = self.back(other, labels, moves)
            whole = (leaf, 0, np.arange(leaf.tensor.shape[0]))
            return None if parts is None else [*parts, whole]
        first, second = (self.back(one, labels, moves, at) for at, one in enumerate(sources))
        if first is None or second is None:
            return None
        return first if _by_axis(first) == _by_axis(second) else None


def _by_axis(parts: Sequence[WeightPart]) -> dict[tuple[int, int], set[int]]:
    """(weight, axis) -> the indices there."""
    found: dict[tuple[int, int], set[int]] = {}
    for leaf, axis, indices in parts:
        found.setdefault((id(leaf), axis), set()).update(indices.tolist())
    return found


def _find_scaled(labels: Labels) -> list[Labels]:
    """Weights that an operation's result is proportional to; of a norm, scale and shift."""
    call, weights = labels.call, labels.sources[1:]
    if call is None or call.packet not in NORMS:
        return list(weights)
    known = [source for source in weights if source.leaf is not None]
    return [source for source in known if source.leaf is call_leaf(call, source)]


def call_leaf(call: Call, source: Labels) -> ModelTensor | None:
    """The leaf, if it is the normalisation's scale or shift and not one of its statistics."""
    from secateurs.pytorch.tracing.op_record import labels_of

    for name in ("weight", "bias"):
        tensor = call.get(name)
        if tensor is not None and labels_of(tensor).leaf is source.leaf:
            return source.leaf
    return None


def _has_other_pieces(labels: Labels, moves: Moves, axis: int, reached: Ids | None) -> bool:
    """Whether other pieces of an operation's result come from the same filters.

    Queries and keys are pieces along the channels, each from filters of its own. Images in one
    batch are not: the features of both, which RAFT multiplies, would see the factor.
    """
    call = labels.call
    if call is None or call.result is None or reached is None:
        return False
    if len(reached) < call.result.shape[axis]:
        return False
    return any(
        move.packet in SEVERAL or made.sources[0].uses > 1
        for move, made in moves
        if move.packet in PICKS
    )


def _rows(weights: Sequence[Labels], rows: Ids | None) -> list[WeightPart] | None:
    found = [_rows_of_leaf(labels, []) for labels in weights]
    if rows is None or not found or any(part is None for part in found):
        return None
    return [(part[0], 0, part[1][rows]) for part in found if part is not None]


def _rows_of_leaf(
    labels: Labels, moves: list[tuple[Call, Labels]]
) -> tuple[ModelTensor, Ids] | None:
    """(the weight, its row behind each row here); None if unknown.

    Queries, keys and values may be slices of one weight.
    """
    if labels.leaf is not None:
        shape = labels.leaf.tensor.shape
        if not moves:
            return labels.leaf, np.arange(shape[0])
        rows = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        for move, made in moves:
            moved = move.function(rows, *move.arguments[1:], **move.keywords)
            rows = list(iterate_tensors(moved))[made.place]
        first = rows.flatten(1)[:, :1] if rows.dim() > 1 else rows[:, None]
        if not bool((rows.reshape(len(rows), -1) == first).all()):
            return None
        return labels.leaf, first[:, 0].numpy()
    call = labels.call
    if call is None or call.packet not in PICKS:
        return None
    return _rows_of_leaf(labels.sources[0], [(call, labels), *moves])


def _find_reached(call: Call, moves: list[tuple[Call, Labels]], axis: int) -> Ids | None:
    """The filters of an operation that reach the tensor at the end of the moves."""
    output = call.result
    if output is None:
        return None
    lengths = [1] * output.dim()
    lengths[axis] = output.shape[axis]
    labels = torch.arange(output.shape[axis]).view(lengths).expand(output.shape)
    for move, made in moves:
        function = aten.reshape.default if move.packet in (aten.view, aten._unsafe_view) else None
        if move.packet in (aten.to, aten.type_as, aten.dropout):
            continue
        moved = (function or move.function)(labels, *move.arguments[1:], **move.keywords)
        labels = list(iterate_tensors(moved))[made.place]
    return np.unique(labels.numpy())
