"""What travels beside a tensor, and what is remembered of each operation of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from secateurs.channels.equations import Ids
from secateurs.channels.tensors import Mask
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.op_call import Arguments, Call, Keywords

NO_CHANNEL = "values that carry no channels"

Axes = dict[int, Ids]


class Place(NamedTuple):
    """One axis of one tensor."""

    tensor: torch.Tensor
    axis: int


@dataclass(slots=True, eq=False)
class Labels:
    """What travels beside a tensor.

    Attributes:
        axes: axis -> the unit at each index; axes that are not listed carry no channels.
        leaf: the model's tensor this is, if it is one (then ``axes`` is the leaf's own).
        origin: the model's tensor it was made from without the help of the input, if any.
        why: description used in freeze messages.
        call: the operation that made it.
        sources: what travelled beside that operation's operands.
        place: which of that operation's results it is.
        uses: how many operations read it.
        is_constant: whether its values are known though channels lie along it: a state of zeros.
        is_made: whether it is a constant or was one until something was written into it. A dry run
            meets it in the size that the user's code gave it, and compares that.
        is_empty: whether some of it may never have been written: its values are not to be compared.
        positions: the channels that its values number, as the indices of a maximum do.
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
        """The same labels of what an operation gives, which nothing has read yet."""
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
        """The weight it is or was made from."""
        return self.leaf or self.origin


@dataclass(slots=True, eq=False)
class OpRecord:
    """One operation of the forward pass, as the rehearsal and the masked twin need it.

    Attributes:
        name: of the aten operation.
        layer: where it happened.
        outputs: for each tensor it gave, its shape and the units along its axes.
        masks: operands the masked twin changes.
        mixed: for an operation that mixes channels (a norm, a mean): (operand, its axes) of all
            operands; the masked twin runs it on the kept channels only.
        types: of the elements of each tensor it gave.
        value: what it gave where that is no tensor: a number read from one.
        decision: what it gave where that is a truth value, of the input's whole numbers or a mask.
        choices: whole numbers and masks that it gave in a trace on real tensors, by the place of
            the result: which expert each token is sent to. A rehearsal reads them.
        groups: the units that a group normalisation counts.
        numbers: the broken numbers it was given, such as an attention's scale.
        start: for one that takes what is from a position on: along which axis, and from where.
        operands: what travelled beside its operands; forgotten once the trace is done.
        made: (operand, its shape, the units along its axes) of those that the user's code made.
        is_constant: whether its result does not depend on the input or the weights after all.
        is_empty: whether its result may hold what was never written.
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
        """Whether it was given no rows: an expert's that no token was sent to."""
        return bool(self.outputs) and not any(math.prod(shape) for shape, _ in self.outputs)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """A forward pass that was traced: what it was given, without data, and what it did."""

    arguments: Arguments
    keywords: Keywords
    training: bool
    operations: Sequence[OpRecord]


def follow(tensor: torch.Tensor, labels: Labels) -> None:
    """Let labels travel beside a tensor."""
    tensor._secateurs_labels = labels  # type: ignore[attr-defined]


def is_followed(tensor: torch.Tensor) -> bool:
    """Whether a tensor depends on the input or the weights."""
    return hasattr(tensor, "_secateurs_labels")


def is_choice(tensor: torch.Tensor) -> bool:
    """Whether these are whole numbers or a mask, and few enough to be kept."""
    is_broken = tensor.is_floating_point() or tensor.is_complex()
    return not is_broken and tensor.numel() <= MOST_CHOICES


MOST_CHOICES = 100_000


def note_as_data(tensor: torch.Tensor) -> None:
    """Remember that these whole numbers, or this mask, are the input's or were computed of it."""
    tensor._secateurs_is_data = True  # type: ignore[attr-defined]


def is_data(tensor: torch.Tensor) -> bool:
    """Whether they are: what is looked up by them is not made of weights alone."""
    return hasattr(tensor, "_secateurs_is_data")


def labels_of(tensor: torch.Tensor) -> Labels:
    """What is known of a tensor."""
    known: Labels | None = getattr(tensor, "_secateurs_labels", None)
    return known if known is not None else Labels()
