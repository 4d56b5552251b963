"""Observe which integers of a module its forward pass reads.

The pass runs on a private copy of the user's modules, so an integer there can be moved from the
module's dictionary to where ``nn.Module.__getattr__`` looks for buffers: a reader still gets it,
and the read is recorded. The module's class does not change, nor does any path that depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateurs.pytorch.model.copies import list_modules

AttributeName = tuple[str, str]
"""(owner, attribute)."""


class Reads:
    """Observes integers of a model's modules.

    Attributes:
        read: attributes that were read so far.
        watched: attributes whose reads are recorded.
    """

    def __init__(self, model: nn.Module, may_count: Callable[[str, object], bool]) -> None:
        """Find the integers.

        Args:
            model: a private copy, as ``OpInterpreter.run`` takes it.
            may_count: whether to watch an attribute of this name and value.
        """
        self.read: set[AttributeName] = set()
        self.watched: set[AttributeName] = set()
        self._numbers: list[tuple[str, nn.Module, list[str]]] = []
        for owner, module in list_modules(model):
            kind = type(module)
            if kind.__module__.startswith("torch.nn.") or not _looks_in_buffers(kind):
                continue
            names = [
                name
                for name, value in vars(module).items()
                if may_count(name, value) and not hasattr(kind, name)
            ]
            if names:
                self._numbers.append((owner, module, names))
                self.watched.update((owner, name) for name in names)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record reads in this context; then restore every attribute."""
        before = []
        for owner, module, names in self._numbers:
            attributes = vars(module)
            before.append((attributes, dict(attributes)))
            values = {name: attributes.pop(name) for name in names}
            attributes["_buffers"] = _RecordedReads(
                attributes["_buffers"], owner, values, self.read
            )
        try:
            yield
        finally:
            for attributes, kept in before:
                attributes.clear()
                attributes.update(kept)


def _looks_in_buffers(kind: type[nn.Module]) -> bool:
    """Whether a module of this class looks attributes up as ``nn.Module`` does."""
    return (
        kind.__getattr__ is nn.Module.__getattr__
        and kind.__getattribute__ is object.__getattribute__
    )


class _RecordedReads(dict[str, Any]):
    """A module's buffers, and integers that are found by name only, with a record of each read."""

    def __init__(
        self, buffers: dict[str, Any], owner: str, numbers: dict[str, Any], read: set[AttributeName]
    ) -> None:
        super().__init__(buffers)
        self._owner = owner
        self._numbers = numbers
        self._read = read

    def __contains__(self, name: object) -> bool:
        return name in self._numbers or super().__contains__(name)

    def __missing__(self, name: str) -> Any:
        self._read.add((self._owner, name))
        return self._numbers[name]
