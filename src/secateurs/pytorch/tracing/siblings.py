"""Cut modules that the example inputs did not reach, such as experts, like their siblings.

Where values decide which of several modules runs, a trace sees only those that ran. The others read
the same features, so a cut that left them whole would work on the example inputs and fail on the
next. Modules of one class and of the same shapes in one ``ModuleList`` or ``ModuleDict`` do the
same, so what was found for one that ran is applied to those that did not: the same channels lie
along their axes, and their sizes and factors follow alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from secateurs.channels.equations import Equations
from secateurs.channels.network import Scaling, Size
from secateurs.pytorch.model.attributes import Attribute, read
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.op_record import OpRecord

Siblings = Mapping[str, str]
"""Path of a module that did not run -> path of a sibling that did."""


def bind_siblings_(
    model: nn.Module,
    leaves: Sequence[ModelTensor],
    operations: Sequence[OpRecord],
    equations: Equations,
) -> dict[str, str]:
    """Bind the tensors of modules that did not run to the units of their siblings.

    A module that ran on no rows at all (an expert given an empty batch) did not run; without a
    sibling, it is frozen.

    Returns:
        Path of each bound module -> path of its sibling, submodules included.
    """
    known = {leaf.name: leaf for leaf in leaves}
    idle = _find_idle(leaves, operations)
    for leaf in idle:
        leaf.is_read = False
    found: dict[str, str] = {}
    for container, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            paths = [f"{container}.{name}".lstrip(".") for name, _ in module.named_children()]
            for path, sibling in list(_iterate_unread(model, paths, known)):
                _bind(path, sibling, known, equations)
                inner = (name for name, _ in model.get_submodule(path).named_modules())
                found |= {_join(path, name): _join(sibling, name) for name in inner}
    for leaf in idle:
        if not leaf.is_read:
            leaf.is_read = True
            for units in leaf.axes.values():
                equations.freeze(units, "no example input reached these weights")
    return found


def _find_idle(leaves: Sequence[ModelTensor], operations: Sequence[OpRecord]) -> list[ModelTensor]:
    """Tensors of layers all of whose operations ran on no rows."""
    by_layer: dict[str, list[OpRecord]] = {}
    for operation in operations:
        by_layer.setdefault(operation.layer, []).append(operation)
    idle = {
        layer
        for layer, calls in by_layer.items()
        if all(operation.is_of_nothing for operation in calls)
    }
    return [leaf for leaf in leaves if leaf.is_read and leaf.layer in idle]


def _iterate_unread(
    model: nn.Module, paths: Sequence[str], known: Mapping[str, ModelTensor]
) -> Iterator[tuple[str, str]]:
    """(a module none of whose tensors was read, a like module all of whose tensors were)."""
    leaves = {
        path: {n: leaf for n, leaf in known.items() if n.startswith(f"{path}.")} for path in paths
    }
    for path in paths:
        if not leaves[path] or any(leaf.is_read for leaf in leaves[path].values()):
            continue
        outline = _outline(model, path, leaves[path])
        for sibling in paths:
            all_read = leaves[sibling] and all(leaf.is_read for leaf in leaves[sibling].values())
            if all_read and _outline(model, sibling, leaves[sibling]) == outline:
                yield path, sibling
                break


def _outline(model: nn.Module, path: str, leaves: Mapping[str, ModelTensor]) -> tuple[object, ...]:
    shapes = {name.removeprefix(path): tuple(leaf.tensor.shape) for name, leaf in leaves.items()}
    return type(model.get_submodule(path)), shapes


def _bind(path: str, sibling: str, known: Mapping[str, ModelTensor], equations: Equations) -> None:
    for name, leaf in known.items():
        if name.startswith(f"{path}."):
            like = known[f"{sibling}{name.removeprefix(path)}"]
            for axis, units in leaf.axes.items():
                if axis in like.axes:
                    equations.equate(units, like.axes[axis])
            leaf.axes, leaf.roles, leaf.is_read = dict(like.axes), dict(like.roles), True


def operations_of(siblings: Siblings, operations: Sequence[OpRecord]) -> list[OpRecord]:
    """Records for modules that did not run, copied from siblings, for runs that reach them."""
    by_layer: dict[str, list[OpRecord]] = {}
    for operation in operations:
        by_layer.setdefault(operation.layer, []).append(operation)
    return [
        replace(operation, layer=path)
        for path, sibling in siblings.items()
        for operation in by_layer.get(sibling, [])
    ]


def sizes_of_siblings(
    model: nn.Module, siblings: Siblings, sizes: Sequence[Size]
) -> Iterator[Size]:
    """Sizes that modules which did not run keep, found in the code of their siblings."""
    for size in sizes:
        number = read(model, Attribute(size.owner, size.attribute, size.position))
        for path, sibling in siblings.items():
            alike = Attribute(path, size.attribute, size.position)
            if sibling == size.owner and read(model, alike) == number:
                yield Size(*alike, size.value)


def scalings_of_siblings(siblings: Siblings, scalings: Sequence[Scaling]) -> Iterator[Scaling]:
    """Scalings of the weights of modules that did not run."""
    for scaling in scalings:
        owner, _, name = scaling.tensor.rpartition(".")
        for path, sibling in siblings.items():
            if sibling == owner:
                yield replace(scaling, tensor=_join(path, name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}".strip(".")
