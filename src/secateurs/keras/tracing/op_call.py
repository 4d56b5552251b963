"""One call of a layer or operation, as its rule sees it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from secateurs.keras.internals import Layer, Operation
from secateurs.keras.model.layer_tree import named_children, path_below
from secateurs.keras.model.nested import flatten
from secateurs.keras.tracing.op_record import Value, values_in


class Call:
    """One call of a layer or operation, with values in place of tensors.

    Attributes:
        path: path of the layer, 'encoder.conv1'.
        layer: the layer or operation.
        inputs: the values among its arguments, flat, in order.
        outputs: its output values, flat; the rule labels them.
    """

    def __init__(
        self,
        path: str,
        layer: Operation,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        outputs: Sequence[Value],
    ) -> None:
        self.path = path
        self.layer = layer
        self.arguments = arguments
        self.keywords = keywords
        self.inputs = values_in([list(arguments), dict(keywords)])
        self.outputs = list(outputs)

    @property
    def input(self) -> Value:
        """The first input value."""
        return self.inputs[0]

    @property
    def output(self) -> Value:
        """The first output value."""
        return self.outputs[0]

    @cached_property
    def by_name(self) -> dict[str, Any]:
        """The arguments by their names in ``layer.call``."""
        signature = inspect.signature(self.layer.call)
        return dict(signature.bind(*self.arguments, **self.keywords).arguments)

    @property
    def operands(self) -> list[Value]:
        """All operands: values, and constants as values without channels."""
        flat = flatten([self.arguments, dict(self.keywords)])
        return [
            item if isinstance(item, Value) else Value(item, why=f"a constant in {self}")
            for item in flat
            if isinstance(item, Value) or hasattr(item, "shape")
        ]

    @property
    def kind(self) -> str:
        """Name of the layer's class."""
        return type(self.layer).__name__

    def path_of(self, inner: Layer) -> str:
        """Return the path of a sublayer."""
        names = {id(child): name for name, child in named_children(self.layer)}
        return path_below(self.path, names[id(inner)])

    def __str__(self) -> str:
        return f"{self.path} ({self.kind})"
