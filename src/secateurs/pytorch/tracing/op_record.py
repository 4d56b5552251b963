"""Labels attached to tensors, and the record of each operation of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, cast

import torch

from secateurs.channels.equations import Ids
from secateurs.channels.tensors import Mask
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.op_call import Arguments, Call, Keywords

NO_CHANNEL = "a tensor of fixed size"

Axes = dict[int, Ids]


class Place(NamedTuple):
    """One axis of one tensor."""

    tensor: torch.Tensor
    axis: int


@dataclass(slots=True, eq=False)
class Labels:
    """Information attached to a tensor of the pass.

    Attributes:
        axes: axis -> the unit at each index; axes that are not listed carry no channels.
        leaf: the model's tensor this is, if it is one (then ``axes`` is the leaf's own).
        origin: the weight it was computed from without using the input, if any.
        why: description used in freeze messages.
        call: the operation that made it.
        sources: labels of that operation's operands.
        place: index among that operation's results.
        uses: number of operations that read it.
        is_constant: whether its values are known although channels lie along it: a state of zeros.
        is_made: whether it is a constant, or was one until something was written into it. In a dry
            run it has the size that the user's code gave it, which is compared.
        is_empty: whether part of it may be uninitialised, so that its values must not be compared.
        positions: the channels that its values index, as the indices of a maximum do.
    """

    axes: Axes = field(default_factory=dict)
    leaf: ModelTensor | None = None
    origin: ModelTensor | None = None
    why: str = NO_CHANNEL
    call: Call | None = None
    sources: list[Labels] = field(default_factory=list)
    place: int = 0
    uses: int = 0
    is_constant: bool = False
    is_made: bool = False
    is_empty: bool = False
    positions: Ids | None = None

    def of_result(self, call: Call, sources: list[Labels], place: int) -> Labels:
        """A copy of the labels for a result of an operation, which nothing has read yet."""
        made = Labels(self.axes, self.leaf, self.origin, self.why, call, sources, place)
        made.is_constant, made.is_made, made.is_empty = (
            self.is_constant,
            self.is_made,
            self.is_empty,
        )
        made.positions = self.positions
        return made

    @property
    def weight(self) -> ModelTensor | None:
        """The weight that it is or was computed from."""
        return self.leaf or self.origin


@dataclass(slots=True, eq=False)
class OpRecord:
    """One operation of the forward pass, as the dry run and the masked twin need it.

    Attributes:
        name: name of the aten operation.
        layer: path of the layer that ran it.
        outputs: shape and units along the axes, for each tensor it returned.
        types: dtype of each tensor it returned.
        value: its result where that is no tensor: a number read from one.
        decision: its result where that is a bool, computed from the input's integers or masks.
        choices: integers and masks that it returned in a trace on real tensors, by index of the
            result, such as the expert of each token. A dry run reuses them.
        masks: operands that the masked twin changes.
        mixed: for an operation that mixes channels (a norm, a mean): (operand, its axes) of all
            operands; the masked twin runs it on the kept channels only.
        groups: for a group normalisation, units that stand for its groups: as many as are kept is
            ``num_groups``.
        numbers: numbers it was given that may depend on a size, such as an attention's scale.
        start: (axis, position) where it selects from a position on.
        operands: labels of its operands; cleared once the trace is done.
        made: (operand, its shape, the units along its axes) of those that the user's code made.
        is_constant: whether its result depends on neither the input nor the weights.
        is_empty: whether its result may hold uninitialised memory.
    """

    name: str
    layer: str
    outputs: list[tuple[tuple[int, ...], Axes]] = field(default_factory=list)
    types: list[torch.dtype] = field(default_factory=list)
    value: object = None
    decision: bool | None = None
    choices: dict[int, torch.Tensor] = field(default_factory=dict)
    masks: list[Mask] = field(default_factory=list)
    mixed: list[tuple[int, Axes]] = field(default_factory=list)
    groups: Ids | None = None
    numbers: list[float] = field(default_factory=list)
    start: tuple[int, int] | None = None
    operands: list[Labels] = field(default_factory=list)
    made: list[tuple[int, tuple[int, ...], Axes]] = field(default_factory=list)
    is_constant: bool = False
    is_empty: bool = False

    @property
    def is_of_nothing(self) -> bool:
        """Whether it ran on no rows, like an expert that no token was sent to."""
        return bool(self.outputs) and not any(math.prod(shape) for shape, _ in self.outputs)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """A traced forward pass: its inputs, without data, and its operations."""

    arguments: Arguments
    keywords: Keywords
    training: bool
    operations: Sequence[OpRecord]


def follow(tensor: torch.Tensor, labels: Labels) -> None:
    """Attach labels to a tensor."""
    tensor._secateurs_labels = labels  # type: ignore[attr-defined]


def is_followed(tensor: torch.Tensor) -> bool:
    """Whether a tensor depends on the input or the weights."""
    return hasattr(tensor, "_secateurs_labels")


def is_choice(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds integers or a mask, few enough to be kept."""
    is_float = tensor.is_floating_point() or tensor.is_complex()
    return not is_float and tensor.numel() <= MOST_CHOICES


MOST_CHOICES = 100_000
"""Maximum number of elements in a recorded tensor of integers or booleans."""


def note_as_data(tensor: torch.Tensor) -> None:
    """Mark integers or a mask as the input's, or as computed from the input."""
    tensor._secateurs_is_data = True  # type: ignore[attr-defined]


def is_data(tensor: torch.Tensor) -> bool:
    """Whether a tensor is marked so: a lookup by it does not depend on weights alone."""
    return hasattr(tensor, "_secateurs_is_data")


def labels_of(tensor: torch.Tensor) -> Labels:
    """The labels of a tensor; empty labels if it has none."""
    known: Labels = getattr(tensor, "_secateurs_labels", _NO_LABELS)
    return known


_NO_LABELS = Labels(cast(Axes, MappingProxyType({})))
"""The labels of every tensor without any; nothing can be written into their axes."""
