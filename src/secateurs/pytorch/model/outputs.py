"""Names of a model's outputs: ``logits``, ``1``, ``hidden_states.3``, ``aux.boxes``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from secateurs.errors import UnknownNameError, nearest

OutputName = str | int


def named_outputs(outputs: object) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) for every tensor in a forward pass's outputs; a single tensor's name is ''.

    Nested outputs have dotted names: of dictionary keys, fields of named tuples and data classes,
    indices in lists and tuples. Objects of other classes (a cache of keys and values) are skipped
    where tensors stand beside them; alone, their attributes count.
    """
    found = list(_name_parts("", outputs))
    if not found and hasattr(outputs, "__dict__"):
        found = list(_name_parts("", vars(outputs)))
    yield from found


def _name_parts(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    for key, item in _parts(value):
        yield from _name_parts(f"{name}.{key}" if name else str(key), item)


def _parts(value: object) -> Iterator[tuple[OutputName, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)


def is_used(name: str, wanted: Sequence[str] | None) -> bool:
    """Whether an output is one of the outputs in use, or part of one."""
    if wanted is None:
        return True
    return any(name == one or name.startswith(f"{one}.") for one in wanted)


def names_of(outputs: OutputName | Sequence[OutputName]) -> tuple[str, ...]:
    """Names or positions of outputs, as strings."""
    names = outputs if isinstance(outputs, Sequence) and not isinstance(outputs, str) else [outputs]
    return tuple(str(name) for name in names)


def check_names(
    outputs: OutputName | Sequence[OutputName] | None, given: Sequence[str]
) -> tuple[str, ...] | None:
    """The names of the outputs in use, as strings; None for all.

    Raises:
        UnknownNameError: the model has no such output.
    """
    if outputs is None:
        return None
    wanted = names_of(outputs)
    for name in wanted:
        if not any(is_used(one, [name]) for one in given):
            raise UnknownNameError(
                f"outputs: the model has none named {name!r}{nearest(name, list(given))}"
            )
    return wanted


@dataclasses.dataclass(frozen=True)
class DropUnused:
    """A forward hook that replaces outputs not in use by None.

    Containers keep their structure, so that a loss finds each output where it looks for it.

    Attributes:
        wanted: names of the outputs in use.
    """

    wanted: tuple[str, ...]

    def __call__(self, module: object, given: object, outputs: object) -> object:
        del module, given
        return self._drop("", outputs)

    def _drop(self, name: str, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value if is_used(name, self.wanted) else None
        kept = {
            key: self._drop(f"{name}.{key}" if name else str(key), item)
            for key, item in _parts(value)
        }
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(kept.values())
        make: Callable[..., object] = type(value)
        if isinstance(value, tuple):
            return make(*kept.values())
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return make(**{str(key): item for key, item in kept.items()})
        return {key: item for key, item in kept.items() if item is not None} if kept else value


def select_used(outputs: object, wanted: Sequence[str] | None) -> object:
    """The outputs in use, for a comparison."""
    if wanted is None:
        return outputs
    return [tensor for name, tensor in named_outputs(outputs) if is_used(name, wanted)]
