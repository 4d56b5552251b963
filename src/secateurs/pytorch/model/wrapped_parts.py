"""Names of a model's layers and tensors without the wrappers around some of its parts.

``model.layers[3] = torch.compile(model.layers[3])`` puts ``_orig_mod`` into the middle of names; a
file is to hold the names of the model as it was built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import nn

from secateurs.channels.proof import WRAPPERS


def plain_names(model: nn.Module) -> Callable[[str], str]:
    """Map the name of a layer or tensor of the model to its name without wrappers inside."""
    return _by_prefix(dict(_paths(model, "", "")))


def present_names(model: nn.Module) -> Callable[[str], str]:
    """The inverse of ``plain_names``; a name that is the model's already stays."""
    paths = {plain: actual for actual, plain in _paths(model, "", "") if actual != plain}
    actual_names = tuple(paths.values())
    rename = _by_prefix(paths)

    def name_in_model(name: str) -> str:
        return name if _longest(actual_names, name) else rename(name)

    return name_in_model


def _paths(module: nn.Module, actual: str, plain: str) -> Iterator[tuple[str, str]]:
    """Yield (path, path without wrappers) of every module, those above first."""
    yield actual, plain
    wrapped = {WRAPPERS.get(base.__name__) for base in type(module).__mro__} - {None}
    for name, child in module._modules.items():
        if child is not None:
            below = plain if name in wrapped else _join(plain, name)
            yield from _paths(child, _join(actual, name), below)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _by_prefix(paths: Mapping[str, str]) -> Callable[[str], str]:
    known = {before: after for before, after in paths.items() if before != after}

    def rename(name: str) -> str:
        path = _longest(tuple(known), name)
        return name if path is None else known[path] + name.removeprefix(path)

    return rename


def _longest(paths: tuple[str, ...], name: str) -> str | None:
    """The longest of these paths that a name lies below, or is."""
    above = [path for path in paths if name == path or name.startswith(f"{path}.")]
    return max(above, key=len, default=None)
