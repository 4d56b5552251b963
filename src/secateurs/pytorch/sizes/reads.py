"""Which integers that a module keeps are read while its forward pass runs.

The pass runs on a private copy of the user's modules, so an integer there can be taken out of the
module's dictionary and put where ``nn.Module.__getattr__`` looks for buffers: whoever reads it gets
it, and that is noted. The module's class stays what it is, and so does every path that asks for it.
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
    """Watches integers of a model's modules.

    Attributes:
        read: those that were read so far.
        watched: those that would have been noted if they had been read.
    """

    def __init__(self, model: nn.Module, may_count: Callable[[str, object], bool]) -> None:
        """Find the integers.

        Args:
            model: a copy of the caller's own, as ``OpInterpreter.run`` takes it.
            may_count: whether an attribute of this name and value is to be watched.
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
        """Note what is read meanwhile; then everything is where it was."""
        before = []
        for owner, module, names in self._numbers:
            attributes = vars(module)
            before.append((attributes, dict(attributes)))
            values = {name: attributes.pop(name) for name in names}
            attributes["_buffers"] = _Noting(attributes["_buffers"], owner, values, self.read)
        try:
            yield
        finally:
            for attributes, kept in before:
                attributes.clear()
                attributes.update(kept)


def _looks_in_buffers(kind: type[nn.Module]) -> bool:
    """Whether a module of this class finds attributes as ``nn.Module`` does."""
    return (
        kind.__getattr__ is nn.Module.__getattr__
        and kind.__getattribute__ is object.__getattribute__
    )


class _Noting(dict[str, Any]):
    """A module's buffers, and numbers beside them that are found only by name."""

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
