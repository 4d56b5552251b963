"""Sizes that a module keeps beside its weights and that the traced forward pass does not read.

Examples are ``self.in_channels`` of a block that fuses its branches after training, or
``self.half`` of a second forward for export: other code reads them and expects the sizes of the
weights. An integer is bound to the channels it counts where only one kind of channels in its module
matches; where several do, it stays as it is, and the network's notes list it. Integers that the
traced pass reads are left to ``hardcoded.py``, which tells by their use whether they are sizes at
all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from secateurs.channels.cost import Product
from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network, Role, Size
from secateurs.pytorch.model.attributes import (
    Attribute,
    identity,
    is_whole_number,
    numbers_in,
    read,
    read_number,
)
from secateurs.pytorch.model.copies import find_module, list_modules
from secateurs.pytorch.sizes.dry_run import DryRun
from secateurs.pytorch.sizes.reads import Reads
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.op_record import ForwardPass, OpRecord

_NO_CHANNELS = re.compile(
    r"kernel|stride|dilat|pad|group|head|layer|depth|block|stage|class|step|window|length|patch|img|"
    r"image|resol|vocab|position|token|level|scale|factor|ratio|expan|reduc|iter|seed|axis|ndim|rank|"
    r"grid|shape|spatial|height|crop|input_size|output_size|eps|version|^_|^[knsp]$|training"
)
"""Names of integers that count something other than channels."""

_SIDES = (
    (re.compile(r"(^|_)in(_|put|$)|^in"), Role.INPUT),
    (re.compile(r"(^|_)out|^out"), Role.FILTER),
)
"""The side of a layer that a name refers to."""

_MOST_NOTED = 8
"""Maximum number of integers that a note lists by name."""


def follow_unread_sizes_(
    model: nn.Module, network: Network, passes: Sequence[ForwardPass], reads: Reads
) -> None:
    """Bind integers that count channels and that the traced passes do not read.

    Args:
        model: the traced model, or a copy of it.
        network: its network; ``sizes`` grow, and ``notes`` list integers that may count several
            kinds.
        passes: traced passes, with their operands.
        reads: reads observed in these passes.
    """
    found, unsure = _find(model, network, passes)
    unseen = [size for size in found if (size.owner, _first(size)) not in reads.watched]
    seen = reads.read | (_find_read(model, network, passes, unseen) if unseen else set())
    for size in found:
        if (size.owner, _first(size)) not in seen:
            network.sizes = (*network.sizes, size)
        elif size.attribute != _first(size) or size.position is not None:
            # The object that holds it was read; whether this integer was is unknown.
            at = Attribute(size.owner, size.attribute, size.position)
            unsure.append(f"{_format_place(at)} = {read_number(model, at)}")
    if unsure:
        rest = f" and {len(unsure) - _MOST_NOTED} more" if len(unsure) > _MOST_NOTED else ""
        network.notes = (
            *network.notes,
            "These integers may count either of several axes of channels and were left unchanged: "
            f"{', '.join(unsure[:_MOST_NOTED])}{rest}.",
        )


def _find(
    model: nn.Module, network: Network, passes: Sequence[ForwardPass]
) -> tuple[list[Size], list[str]]:
    """(sizes that count one kind of channels, descriptions of integers that may count several)."""
    places = _integers_in(model)
    if not places:
        return [], []
    modules = dict(list_modules(model))
    known = set()
    for size in network.sizes:
        module = modules.get(size.owner) or find_module(model, size.owner)
        known.add(identity(module, Attribute(size.owner, size.attribute, size.position)))
    unbound = [
        (alike, read_number(model, alike[0]) or 0)
        for key, alike in places.items()
        if key not in known
    ]
    arrays = _Arrays(network, passes, {value for _, value in unbound})
    found, unsure = [], []
    for alike, value in unbound:
        first = alike[0]
        # An object shared by several modules counts for all of them.
        kinds = arrays.kinds([at.owner for at in alike], first, value)
        if len(kinds) == 1 and arrays.may_change(kinds[0]) and not _is_one_of_equals(model, first):
            found.append(Size(first.owner, first.name, first.item, Product(1, (kinds[0],))))
        elif any(map(arrays.may_change, kinds)):
            unsure.append(f"{_format_place(first)} = {value}")
    return found, unsure


def _integers_in(model: nn.Module) -> dict[tuple[int, str, str | int | None], list[Attribute]]:
    """Integers of users' own layers that may count channels, by identity of their place."""
    places: dict[tuple[int, str, str | int | None], list[Attribute]] = {}
    for owner, module in list_modules(model):
        if type(module).__module__.startswith("torch.nn."):
            continue  # sizes of PyTorch's layers are known by name
        for at, value in numbers_in(owner, module):
            if _counts(at, value) and not _is_in_configuration(module, at):
                places.setdefault(identity(module, at), []).append(at)
    return places


def _is_one_of_equals(model: nn.Module, at: Attribute) -> bool:
    """Whether it is one of several equal numbers: (16, 16) is a window rather than channels."""
    if not isinstance(at.item, int):
        return False
    around = read(model, Attribute(at.owner, at.name))
    return isinstance(around, (list, tuple)) and len(around) > 1 and len(set(map(str, around))) == 1


def _format_place(at: Attribute) -> str:
    item = "" if at.item is None else f"[{at.item!r}]"
    return f"{at.owner}.{at.name}{item}".lstrip(".")


def _is_in_configuration(module: nn.Module, at: Attribute) -> bool:
    """Whether it is in a Transformers configuration, whose fields are updated by name."""
    holder = vars(module).get(at.name.partition(".")[0])
    return at.is_far and type(holder).__module__.partition(".")[0] == "transformers"


def _first(size: Size) -> str:
    """The module's attribute that holds a size, directly or nested."""
    return size.attribute.partition(".")[0]


def may_count(attribute: str, value: object) -> bool:
    """Whether this may be a number of channels, judging by its value and name."""
    number = value if is_whole_number(value) else 0
    return number > 1 and not _NO_CHANNELS.search(attribute)


def _counts(at: Attribute, value: int) -> bool:
    names = [*at.name.split("."), *([at.item] if isinstance(at.item, str) else [])]
    return all(may_count(name, value) for name in names)


class _Axis(NamedTuple):
    """An axis with channels: its role, the layer's size that counts them, and its units."""

    role: Role | None
    size: str
    units: Ids


class _Arrays:
    """The channels along axes inside each module.

    Args:
        network: the traced network.
        passes: traced passes with their operations.
        lengths: lengths of interest.
    """

    def __init__(
        self, network: Network, passes: Sequence[ForwardPass], lengths: Collection[int]
    ) -> None:
        self._network = network
        self._atoms = network.solution.atoms
        self._prunable = np.zeros(int(self._atoms.max(initial=0)) + 1, np.bool_)
        for group in network.groups:
            self._prunable[group.channels] = True
        self._by_length: dict[int, dict[str, list[_Axis]]] = {length: {} for length in lengths}
        self._inside: dict[tuple[int, str], dict[str, list[_Axis]]] = {}
        """The entries of ``_by_length`` by the length and the path of a module around the layer."""
        self._outputs: set[tuple[str, int]] = set()
        self._keys: dict[int, bytes] = {}
        for size in network.sizes:
            if len(size.value.axes) == 1 and size.value.constant == 1 and size.position is None:
                self._add(size.owner, None, size.attribute, size.value.axes[0])
        for tensor in network.tensors.values():
            for axis, units in tensor.axes.items():
                if len(units) in self._by_length:
                    self._add(tensor.layer, tensor.roles.get(axis), "", units)
        for operation in (o for forward in passes for o in forward.operations):
            self._add_outputs(operation)

    def _add_outputs(self, operation: OpRecord) -> None:
        for _, axes in operation.outputs:
            for units in axes.values():
                if len(units) not in self._by_length:
                    continue
                key = (operation.layer, id(units))  # a norm shares units with its convolution
                if key not in self._outputs:
                    self._outputs.add(key)
                    self._add(operation.layer, None, "", units)

    def _add(self, layer: str, role: Role | None, name: str, units: Ids) -> None:
        length = len(units)
        of_length = self._by_length.get(length)
        if of_length is None:
            return
        axes = of_length.get(layer)
        if axes is None:
            axes = of_length[layer] = []
            for path in _paths_to(layer):
                self._inside.setdefault((length, path), {})[layer] = axes
        axes.append(_Axis(role, name, units))

    def kinds(self, owners: Sequence[str], at: Attribute, value: int) -> list[Ids]:
        """Channels of this number inside some modules, one array for each kind."""
        layers = self._by_length.get(value, {})
        covered = {layer for owner in owners for layer in self._inside.get((value, owner), ())}
        inside = [axis for layer in layers if layer in covered for axis in layers[layer]]
        name = at.item if isinstance(at.item, str) else at.name.rpartition(".")[2]
        for chosen in self._likeliest(name, inside):
            if chosen:
                units = {id(axis.units): axis.units for axis in chosen}.values()
                return list({self._key(one): one for one in units}.values())
        return []

    def _likeliest(self, attribute: str, inside: Sequence[_Axis]) -> Iterator[Sequence[_Axis]]:
        """Candidates by size of the same name; then by the side in the name; then all."""
        yield [one for one in inside if one.size == attribute]
        for pattern, role in _SIDES:
            if pattern.search(attribute):
                yield [one for one in inside if one.role is role]
        yield inside

    def _key(self, units: Ids) -> bytes:
        """A key equal for axes that always keep the same number of channels."""
        if id(units) not in self._keys:
            rows = self._atoms[units]
            self._keys[id(units)] = rows[np.lexsort(rows.T)].tobytes()
        return self._keys[id(units)]

    def may_change(self, units: Ids) -> bool:
        """Whether some cut removes any of these channels."""
        return bool(self._prunable[self._atoms[units]].any())


def _paths_to(layer: str) -> Iterator[str]:
    """The paths of the modules around a layer, from the model itself to the layer."""
    yield ""
    parts = layer.split(".") if layer else []
    for depth in range(1, len(parts) + 1):
        yield ".".join(parts[:depth])


def _find_read(
    model: nn.Module, network: Network, passes: Sequence[ForwardPass], sizes: Sequence[Size]
) -> set[tuple[str, str]]:
    """(owner, attribute) of the sizes that a pass reads; all of them where that is unknown."""
    reads: set[tuple[str, str]] = set()
    wanted: dict[str, list[str]] = {}
    for size in sizes:
        wanted.setdefault(size.owner, []).append(_first(size))
    stays = np.ones(len(network.solution.atoms), np.bool_)
    for number, forward in enumerate(passes):
        dense = cut_copy(model, Cut(), without_data=True)
        for owner, attributes in wanted.items():
            module = dense.get_submodule(owner)
            watched = {name: _watch(owner, name, reads) for name in attributes}
            kind = type(module)
            module.__class__ = type(kind.__name__, (kind,), watched)
        if DryRun(dense, forward, number, stays).rehearse().raised is not None:
            return {(size.owner, _first(size)) for size in sizes}
    return reads


def _watch(owner: str, name: str, reads: set[tuple[str, str]]) -> property:
    """A property that records reads of an attribute; the value stays in its place."""

    def value(module: nn.Module) -> object:
        reads.add((owner, name))
        return vars(module)[name]

    return property(value)
