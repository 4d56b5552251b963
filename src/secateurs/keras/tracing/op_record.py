"""What is known of the values and the calls of a graph while channels are followed through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import keras

from secateurs.channels.equations import Ids
from secateurs.channels.tensors import Mask
from secateurs.keras.internals import Operation
from secateurs.keras.model.nested import flatten
from secateurs.keras.model.tensors import ModelTensor

NO_CHANNEL = "values that carry no channels"

Axes = dict[int, Ids]


@dataclass(eq=False, slots=True)
class Value:
    """What travels through the graph in place of a tensor.

    Attributes:
        spec: its shape and type.
        axes: axis -> the unit at each index; axes that are not listed carry no channels.
        why: description used in freeze messages.
        source: the number of the network's input that its numbers are picked from, if it is one
            that carries no channels (so that indices into a table can be made up).
        leaf: the weight that it is, where a layer's code uses one itself.
    """

    spec: keras.KerasTensor
    axes: Axes = field(default_factory=dict)
    why: str = NO_CHANNEL
    source: int | None = None
    leaf: ModelTensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths, the batch's too."""
        return tuple(self.spec.shape)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.spec.shape)


class Place(NamedTuple):
    """One axis of a value or a weight; negative axes count from the end."""

    thing: Value | ModelTensor
    axis: int

    @property
    def at(self) -> int:
        """The axis, counted from the front."""
        return self.axis % len(self.thing.shape)

    @property
    def length(self) -> int:
        return self.thing.shape[self.axis]


@dataclass(slots=True)
class OpRecord:
    """One call of the forward pass, as the masked twin needs it.

    Attributes:
        name: of the layer's or operation's class.
        layer: its path.
        slots: which of its arguments, flat, are tensors.
        inputs: for each of these, its shape and the units along its axes.
        outputs: likewise, for each tensor it gave.
        masks: operands the masked twin changes.
        reading: weight's name and axis -> what of an operand it reads by that axis, so that the
            twin may ignore the operand's removed channels instead of the weight's.
        mixes: whether it mixes channels (a norm, a mean); the masked twin runs it on the kept
            channels only.
        call: the layer or operation itself.
    """

    name: str
    layer: str
    call: Operation = None
    slots: list[int] = field(default_factory=list)
    inputs: list[tuple[tuple[int, ...], Axes]] = field(default_factory=list)
    outputs: list[tuple[tuple[int, ...], Axes]] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    reading: dict[tuple[str, int], Mask] = field(default_factory=dict)
    mixes: bool = False


class Assumed(NamedTuple):
    """A number in the code of a layer that is taken to follow the length of an axis.

    Attributes:
        step: the number of the call that is told it.
        units: along the axis.
        why: what to say where it does not.
        kind: which call of which class's code it is; layers of one class behave alike.
        wholes: widths that the number may be a share of: of the tensor before, and of any two
            sides of a grid behind (``shape(x)[-1] // heads`` of a width that is another's).
    """

    step: int
    units: Ids
    why: str
    kind: tuple[str, int]
    wholes: tuple[Ids, ...] = ()


def values_in(structure: object) -> list[Value]:
    """Every value in nested lists, tuples and dictionaries, in order."""
    return [item for item in flatten(structure) if isinstance(item, Value)]
