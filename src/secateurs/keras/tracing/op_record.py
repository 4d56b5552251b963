"""Records of the values and calls of a graph while channels are followed through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import keras

from secateurs.channels.equations import Ids
from secateurs.channels.tensors import Mask
from secateurs.keras.internals import Operation
from secateurs.keras.model.nested import flatten
from secateurs.keras.model.tensors import ModelTensor

NO_CHANNEL = "a tensor of fixed size"

Axes = dict[int, Ids]


@dataclass(eq=False, slots=True)
class Value:
    """Stand-in for a tensor on its way through the graph.

    Attributes:
        spec: its shape and dtype.
        axes: axis -> unit at each index, of shape (length,); other axes carry no channels.
        why: description used in freeze messages.
        source: position of the network input that its values are taken from, for values without
            channels; lets indices into a table be generated.
        leaf: the weight behind it, where a layer's code uses one directly.
    """

    spec: keras.KerasTensor
    axes: Axes = field(default_factory=dict)
    why: str = NO_CHANNEL
    source: int | None = None
    leaf: ModelTensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, including the batch."""
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
        """The axis as a non-negative number."""
        return self.axis % len(self.thing.shape)

    @property
    def length(self) -> int:
        return self.thing.shape[self.axis]


@dataclass(slots=True)
class OpRecord:
    """One call of the forward pass, as the masked twin needs it.

    Attributes:
        name: class name of the layer or operation.
        layer: its path.
        slots: positions of the tensors among its flattened arguments.
        inputs: shape and units by axis, for each of these.
        outputs: shape and units by axis, for each output tensor.
        masks: operands whose removed channels the masked twin sets to zero.
        reading: (Name, axis) of a weight -> mask of the operand that the axis reads, which the twin
            may apply instead of zeroing the weight.
        mixes: whether it mixes channels (a norm, a mean); the masked twin runs it on the kept
            channels only.
        call: the layer or operation.
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
    """A size in the code of a layer that is assumed to follow the length of an axis.

    Attributes:
        step: index of the call that receives it.
        units: units along the axis.
        why: reason to freeze the units if the assumption fails.
        kind: (Class of the layer, index of the call in its code); layers of one class behave alike.
        wholes: widths that the size may be a fraction of: that of the tensor before, and those of
            any two sides of a grid after (``shape(x)[-1] // heads``, a width of another tensor).
        layer: layer whose code it is.
    """

    step: int
    units: Ids
    why: str
    kind: tuple[str, int]
    wholes: tuple[Ids, ...] = ()
    layer: object = None


def values_in(structure: object) -> list[Value]:
    """List the values in nested lists, tuples and dictionaries, in order."""
    return [item for item in flatten(structure) if isinstance(item, Value)]
