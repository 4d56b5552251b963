"""New variables with the attributes of old ones, in fewer steps than Keras and TensorFlow take.

TensorFlow makes a variable in some thirty steps in Python (scopes, attributes of a graph,
strategies of distribution), most of which have no effect where operations run at once and nothing
is distributed. There a new variable needs memory, the value in it, and the old one's attributes.
"""

from __future__ import annotations

import weakref
from functools import lru_cache
from importlib import import_module
from typing import Any

import keras

from secateurs.keras.internals import Variable, in_tensorflow
from secateurs.keras.protocols import BackendTensor

_TRACKING = "_self_"
"""Prefix of the attributes in which TensorFlow tracks what an object depends on."""

_TRACKED = "_self_unconditional_checkpoint_dependencies"
"""The one of them that every object has that is tracked."""


class Handles:
    """Handles of memory for TensorFlow's variables, which are made, and filled, many at a time.

    In a row, each takes a third of the time that it takes among other steps.
    TensorFlow also compiles the operation that makes them anew for each shape and name, which takes
    ten times as long as the rest. So the operation is given neither: the shape is noted on the
    handle, where graphs look for it, as for a variable whose shape is not known in advance.

    Args:
        at_a_time: how many are made in a row.
    """

    def __init__(self, at_a_time: int = 32) -> None:
        self._at_a_time = at_a_time
        self._free: dict[Any, list[Any]] = {}
        self._waiting: list[tuple[Any, Any]] = []

    def take(self, value: Any) -> Any:
        """Return a handle of new memory for a value, which ``fill`` writes there."""
        free = self._free.setdefault(value.dtype, [])
        if not free:
            free.extend(_make_handle(value.dtype) for _ in range(self._at_a_time))
        handle, note = free.pop(), _note_of(tuple(value.shape), value.dtype)
        handle._handle_data = type(note)()
        handle._handle_data.CopyFrom(note)
        self._waiting.append((handle, value))
        return handle

    def fill(self) -> None:
        """Write the values of all handles taken so far, whose variables have none until then."""
        for handle, value in self._waiting:
            in_tensorflow().operations.AssignVariableOp(resource=handle, value=value)
        self._waiting.clear()


def new_variable_like(
    variable: Variable,
    value: BackendTensor,
    shape: tuple[int, ...],
    path: str | None,
    handles: Handles | None = None,
) -> Variable:
    """Return a new variable with another value, as the layer at this path would create it.

    Args:
        variable: the old variable; unchanged.
        value: value of the new one, which may keep its memory.
        shape: shape of the value.
        path: path of the layer that it belongs to.
        handles: handles of memory to take from, which are to be filled; None makes one.
    """
    new = object.__new__(type(variable))
    held = vars(variable).copy()
    if _TRACKED in held:
        new._maybe_initialize_trackable()  # a record of its own of what it depends on
        held.update(vars(new))
        vars(new).clear()
    vars(new).update(
        held, _path=f"{path}/{variable.name}", _shape=shape, _ndim=len(shape), _value=None
    )
    taken = handles or Handles(at_a_time=1)
    made = _allocate_like(variable._value, value, variable.name, new.trainable, taken)
    if handles is None:
        taken.fill()
    new._initialize(value if made is None else made)
    return new


def _allocate_like(
    old: Any, value: Any, name: str, trainable: bool, handles: Handles
) -> object | None:
    """Return one of TensorFlow's variables like another; None where TensorFlow has to make it."""
    if keras.backend.backend() != "tensorflow":
        return None
    known = in_tensorflow()
    if type(old) is not known.plain_variable or old.dtype != value.dtype:
        return None
    if not _is_made_at_once() or old._in_graph_mode or old.constraint is not None:
        return None
    handle = handles.take(value)
    new: object = object.__new__(type(old))
    held = vars(old).copy()
    if _TRACKED in held:
        held = {name: value for name, value in held.items() if not name.startswith(_TRACKING)}
    handle._parent_trackable = weakref.ref(new)
    handle._name, handle._unique_id = f"{name}:0", f"{name}_{known.new_number()}"
    vars(new).update(
        held,
        _handle=handle,
        _handle_name=handle._name,
        _unique_id=handle._unique_id,
        _shape=value.shape,
        _trainable=trainable,
        _cached_shape_as_list=None,
        _variable_read=False,
    )
    return new


def _make_handle(dtype: Any) -> Any:
    known = in_tensorflow()
    return known.operations.VarHandleOp(
        dtype=dtype, shape=known.any_shape, shared_name=known.anonymous_name()
    )


@lru_cache(maxsize=4096)
def _note_of(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the note of a shape and dtype, to be copied."""
    data = import_module("tensorflow.python.ops.handle_data_util")
    return data.create_handle_data(import_module("tensorflow").TensorShape(shape), dtype)


def _is_made_at_once() -> bool:
    """Whether nothing around has a say in how a variable is made or named."""
    tensorflow = import_module("tensorflow")
    graph = tensorflow.compat.v1.get_default_graph()
    return (
        in_tensorflow().is_eager()
        and not tensorflow.distribute.has_strategy()
        and not tensorflow.get_current_name_scope()
        and not graph._variable_creator_stack
    )
