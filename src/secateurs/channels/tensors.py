"""What a trace reports about a model: tensors, sizes, and which operations read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from secateurs.channels.cost import Product
from secateurs.channels.equations import Ids

_PARAMETRIZED = re.compile(r"\.?\bparametrizations\.[^.]+(\.\d+)?$")
"""End of the path of what PyTorch computes a layer's weight from."""


class Role(StrEnum):
    """What an axis of a tensor does for the channels along it."""

    FILTER = "filter"
    """A weight's output axis: one filter or neuron for each channel."""
    INPUT = "input"
    """A weight's input axis: how a later layer reads the channel."""
    SCALE = "scale"
    """A factor per channel, such as batch normalisation's weight."""
    SHIFT = "shift"
    """A bias per channel."""
    MEAN = "mean"
    """A running mean per channel."""
    VARIANCE = "variance"
    """A running variance per channel."""
    OTHER = "other"


def layer_of(tensor: str) -> str:
    """Path of the layer that a tensor belongs to, from its name; of a tensor alone, its name.

    A tensor under a parametrization belongs to the layer whose weight is computed from it.

    Example:
        >>> layer_of("layer1.0.conv1.weight"), layer_of("scale")
        ('layer1.0.conv1', 'scale')
        >>> layer_of("head.parametrizations.weight.original0")
        'head'
    """
    path = tensor.rpartition(".")[0] or tensor
    return (_PARAMETRIZED.sub("", path) or path) if "parametrizations" in path else path


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or buffer of the model.

    Attributes:
        name: dotted name, as in the model's state.
        shape: length of each axis.
        itemsize: bytes of one element.
        is_parameter: False for buffers.
        aliases: other names of the same tensor (tied weights).
        axes: axis -> the unit at each index; an axis that is not listed keeps its length.
        roles: axis -> its role.
        is_read: whether the forward pass reads the tensor; None if that is not known.
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
        """The layer that the tensor belongs to; its own name if it stands alone."""
        return layer_of(self.name)

    @property
    def size(self) -> Product:
        """Number of elements, as a product that follows any cut."""
        constant = 1
        for axis, length in enumerate(self.shape):
            constant *= 1 if axis in self.axes else length
        return Product(constant, tuple(self.axes.values()))


@dataclass(frozen=True, slots=True)
class Size:
    """An integer attribute of a layer that equals a product of axis lengths.

    Attributes:
        owner: dotted path of the layer.
        attribute: its name; dotted where it belongs to an object that the layer holds.
        position: index in the attribute where that is a list or tuple, key where it is a
            dictionary, else None.
        value: the product of axis lengths.
    """

    owner: str
    attribute: str
    position: int | str | None
    value: Product


@dataclass(frozen=True, slots=True)
class Scaling:
    """Part of a tensor that must be rescaled with a size, to keep what follows unchanged.

    Attributes:
        tensor: the tensor's name.
        axis: axis along which the indices count.
        indices: indices to rescale, shape (indices,).
        size: the size that changes, as a product of axis lengths.
        power: exponent: the factor is (size after / size before) to this power.
    """

    tensor: str
    axis: int
    indices: Ids
    size: Product
    power: float


@dataclass(frozen=True, slots=True)
class Mixing:
    """An operation whose result for a channel depends on other channels: removal is not exact.

    Attributes:
        operation: name, such as 'layer_norm'.
        layer: layer in which it runs.
        units: the channels that it mixes.
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
        operand: index among the tensor arguments of the operation.
        axis: one of its axes.
        units: the channels along that axis.
    """

    operand: int
    axis: int
    units: Ids
