"""Named tensors of a model: the variables of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role, Tensor
from secateurs.channels.tensors import layer_of
from secateurs.errors import UnknownNameError
from secateurs.keras.internals import (
    Layer,
    Operation,
    Variable,
    graph_of,
    is_model,
    name_in,
    nodes_of,
    own_variables,
    read_value,
    sublayers,
)
from secateurs.keras.model.layer_tree import named_children, named_own_variables, path_below
from secateurs.keras.protocols import BackendTensor


@dataclass(eq=False, slots=True)
class ModelTensor:
    """One variable of the model, and the units found along its axes so far.

    Attributes:
        name: path of the layer and name of the variable, 'encoder.conv1.kernel'.
        variable: the Keras variable.
        is_parameter: False for running statistics, states and the like.
        aliases: other names of the same variable.
        axes: axis -> unit at each index, of shape (length,), for axes that carry channels.
        roles: axis -> its role.
    """

    name: str
    variable: Variable
    is_parameter: bool
    aliases: list[str] = field(default_factory=list)
    axes: dict[int, Ids] = field(default_factory=dict)
    roles: dict[int, Role] = field(default_factory=dict)
    shape: tuple[int, ...] = field(init=False)
    """Length of each axis, which TensorFlow's variables take a while to tell."""

    def __post_init__(self) -> None:
        self.shape = tuple(self.variable.shape)

    @property
    def layer(self) -> str:
        """Path of the layer that it belongs to."""
        return layer_of(self.name)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return size_of(keras.backend.standardize_dtype(self.variable.dtype))

    def describe(self) -> Tensor:
        """The tensor in the terms of the framework-free algebra."""
        return Tensor(
            self.name,
            self.shape,
            self.itemsize,
            self.is_parameter,
            tuple(self.aliases),
            dict(sorted(self.axes.items())),
            dict(sorted(self.roles.items())),
        )

    def array(self) -> NDArray[np.generic]:
        """Return the current values; half precision is converted to float32."""
        values = self.variable.value
        if keras.backend.standardize_dtype(self.variable.dtype) in ("float16", "bfloat16"):
            values = keras.ops.cast(values, "float32")
        numbers: NDArray[np.generic] = np.asarray(keras.ops.convert_to_numpy(values))
        return numbers


def size_of(dtype: str) -> int:
    """Return the bytes per element of a Keras dtype (NumPy does not know 'bfloat16')."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def list_tensors(model: keras.Model) -> list[ModelTensor]:
    """Every variable of the model once, in layer order, with all its names."""
    leaves: dict[int, ModelTensor] = {}
    first = paths_of(model)
    for path, operation in named_operations(model):
        for known_path in dict.fromkeys((first[id(operation)], path)):
            for name, variable, is_parameter in named_variables(operation, known_path):
                known = leaves.setdefault(id(variable), ModelTensor(name, variable, is_parameter))
                if name != known.name and name not in known.aliases:
                    known.aliases.append(name)
    return list(leaves.values())


def named_operations(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Operation]]:
    """Iterate over (path, operation) of the operations a model calls, nested models included.

    The order is that of ``model.layers``. A layer shared with a nested model has several paths, and
    comes once for each.
    """
    graph = graph_of(model)
    called = {id(node.operation) for node in nodes_of(graph)}
    for operation in graph.operations:
        path = prefix + name_in(model, operation)
        if id(operation) in called and is_model(operation):
            yield from named_operations(operation, f"{path}.")
        elif id(operation) in called:
            yield path, operation


def calls_of(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Operation]]:
    """Iterate over (path, operation) of each call in a model's graph, in execution order."""
    for node in nodes_of(graph_of(model)):
        path = prefix + name_in(model, node.operation)
        if is_model(node.operation):
            yield from calls_of(node.operation, f"{path}.")
        else:
            yield path, node.operation


def paths_of(model: keras.Model) -> dict[int, str]:
    """Map each operation (by ``id``) to the first path it is called on, nested models included."""
    paths: dict[int, str] = {}
    for path, operation in calls_of(model):
        paths.setdefault(id(operation), path)
    return paths


def layers_by_path(model: keras.Model) -> Iterator[tuple[str, Operation]]:
    """Iterate over (path, layer or operation) of what a model calls and of all sublayers."""
    for path, operation in named_operations(model):
        yield path, operation
        yield from _inside(operation, path)


def path_of(model: keras.Model, layer: str | Layer) -> str:
    """Return the path of a layer; a path is returned unchanged.

    Raises:
        UnknownNameError: the layer does not belong to the model.
    """
    if isinstance(layer, str):
        return layer
    for path, operation in named_operations(model):
        if operation is layer:
            return path
        for inner_path, inner in _inside(operation, path):
            if inner is layer:
                return inner_path
    name = getattr(layer, "name", layer)
    raise UnknownNameError(
        f"expected a layer of {model.name}, or its name; received {name!r}, which is not one of "
        "its layers"
    )


def _inside(layer: Layer, path: str) -> Iterator[tuple[str, Operation]]:
    for name, child in named_children(layer):
        yield path_below(path, name), child
        yield from _inside(child, path_below(path, name))


def named_variables(layer: Layer, path: str) -> Iterator[tuple[str, Variable, bool]]:
    """Iterate over (name, variable, whether a parameter) of a layer and its sublayers."""
    for name, variable, is_parameter in named_own_variables(layer):
        yield path_below(path, name), variable, is_parameter
    for name, child in named_children(layer):
        yield from named_variables(child, path_below(path, name))


VariableValues = dict[int, tuple[Variable, BackendTensor]]
"""``id`` of a variable -> (the variable, the value to use for it)."""


def present_values(model: keras.Model, *, on_tape: bool = False) -> VariableValues:
    """Return every variable of a model, by ``id``, with its current value; as ``values_of``."""
    return values_of([operation for _, operation in named_operations(model)], on_tape=on_tape)


def values_of(operations: Iterable[Operation], *, on_tape: bool = False) -> VariableValues:
    """Return the operations' variables, by ``id``, with their current values.

    Args:
        operations: layers or operations.
        on_tape: True allows values that TensorFlow would record on a gradient tape: where there is
            none, it can read each variable by one operation, and none when the value is used.
    """
    quickly = on_tape and keras.backend.backend() == "tensorflow"

    def read(variable: Variable) -> BackendTensor:
        value: BackendTensor = variable.value
        return read_value(value) if quickly else keras.ops.stop_gradient(value)

    return {
        id(variable): (variable, read(variable))
        for operation in operations
        for variable in _variables_inside(operation)
    }


def _variables_inside(layer: Layer) -> Iterator[Variable]:
    """Iterate over the variables of a layer and its sublayers; names would take longer to find."""
    for variable, _ in own_variables(layer):
        yield variable
    for child in sublayers(layer):
        yield from _variables_inside(child)
