"""What a framework says of a model it has traced: tensors, sizes, and what operations read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from secateurs.channels.cost import Product
from secateurs.channels.equations import Ids


class Role(StrEnum):
    """What an axis of a tensor does for the channels along it."""

    FILTER = "filter"
    """One filter, neuron, ... a channel: a weight's output axis."""
    INPUT = "input"
    """What a later layer does with the channel: a weight's input axis."""
    SCALE = "scale"
    """A factor per channel, such as batch normalisation's weight."""
    SHIFT = "shift"
    """A bias per channel."""
    MEAN = "mean"
    """A running mean per channel."""
    VARIANCE = "variance"
    """A running variance per channel."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or buffer of the model.

    Attributes:
        name: dotted, as in the model's state.
        shape: its lengths.
        itemsize: bytes a number.
        is_parameter: False for buffers.
        aliases: other names of the same tensor (tied weights).
        axes: axis -> the unit at each index; an axis that is not listed keeps its length.
        roles: axis -> what it does.
        is_read: whether the forward pass reads it; None where that is not known.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int
    is_parameter: bool
    aliases: tuple[str, ...] = ()
    axes: Mapping[int, Ids] = field(default_factory=dict)
    roles: Mapping[int, Role] = field(default_factory=dict)
    is_read: bool | None = None

    @property
    def layer(self) -> str:
        """The layer it belongs to; the tensor's own name where it stands alone."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def size(self) -> Product:
        """Numbers in it, as a product that follows any cut."""
        constant = 1
        for axis, length in enumerate(self.shape):
            constant *= 1 if axis in self.axes else length
        return Product(constant, tuple(self.axes.values()))


@dataclass(frozen=True, slots=True)
class Size:
    """An integer attribute of a layer that follows axis lengths: their product.

    Attributes:
        owner: dotted path of the layer.
        attribute: its name; dotted where it is an attribute of an object that the layer holds.
        position: the place in it where it is a list or tuple, the key where it is a dictionary.
        value: what it follows.
    """

    owner: str
    attribute: str
    position: int | str | None
    value: Product


@dataclass(frozen=True, slots=True)
class Scaling:
    """Part of a tensor that must grow or shrink with a size, for what follows to stay as it was.

    Attributes:
        tensor: the tensor's name.
        axis: along which of its axes.
        indices: which indices there.
        size: the size that changes, as a product of axis lengths.
        power: the factor is (size after / size before) to this power.
    """

    tensor: str
    axis: int
    indices: Ids
    size: Product
    power: float


@dataclass(frozen=True, slots=True)
class Mixing:
    """An operation whose result for a channel depends on the others: removal is not exact.

    Attributes:
        operation: such as 'layer_norm'.
        layer: where it happens.
        units: the channels it mixes.
    """

    operation: str
    layer: str
    units: Ids

    def __str__(self) -> str:
        return f"{self.operation} over channels in {self.layer or 'the model'}"


@dataclass(frozen=True, slots=True)
class Mask:
    """An operand whose removed channels the masked twin ignores.

    Attributes:
        operand: which tensor argument of the operation.
        axis: along which of its axes.
        units: the channels there.
    """

    operand: int
    axis: int
    units: Ids
