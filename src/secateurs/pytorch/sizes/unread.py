"""Sizes that a module keeps beside its weights and that the traced forward pass does not read.

``self.in_channels`` of a block that fuses its branches after training, ``self.half`` of a second
forward for export: whatever else reads them wants what the weights have. An integer follows the
channels it counts where only one kind of channels in its module comes into question; where several
do, it stays, and the network's notes list it. What the traced pass itself reads is none of these:
there ``hardcoded.py`` tells from what is asked for whether it is a size at all.
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
from secateurs.pytorch.model.copies import list_modules
from secateurs.pytorch.sizes.dry_run import DryRun
from secateurs.pytorch.sizes.reads import Reads
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.op_record import ForwardPass

_NO_CHANNELS = re.compile(
    r"kernel|stride|dilat|pad|group|head|layer|depth|block|stage|class|step|window|length|patch|img|"
    r"image|resol|vocab|position|token|level|scale|factor|ratio|expan|reduc|iter|seed|axis|ndim|rank|"
    r"grid|shape|spatial|height|crop|input_size|output_size|eps|version|^_|^[knsp]$|training"
)
"""Names of integers that count something else than channels."""

_SIDES = (
    (re.compile(r"(^|_)in(_|put|$)|^in"), Role.INPUT),
    (re.compile(r"(^|_)out|^out"), Role.FILTER),
)
"""What a name says of which side of a layer it is of."""

_MOST_NOTED = 8


def follow_unread_sizes_(
    model: nn.Module, network: Network, passes: Sequence[ForwardPass], reads: Reads
) -> None:
    """Let integers that count channels follow them, read in the traced pass or not.

    Args:
        model: the traced model, or a copy of it.
        network: its ``sizes`` grow; its ``notes`` list integers that may count either of several.
        passes: as traced, with their operands.
        reads: what these passes were seen to read.
    """
    found, unsure = _find(model, network, passes)
    unseen = [size for size in found if (size.owner, _first(size)) not in reads.watched]
    seen = reads.read | (_find_read(model, network, passes, unseen) if unseen else set())
    for size in found:
        if (size.owner, _first(size)) not in seen:
            network.sizes = (*network.sizes, size)
        elif size.attribute != _first(size) or size.position is not None:
            # Something is read of what holds it; whether it is this number, nobody saw.
            at = Attribute(size.owner, size.attribute, size.position)
            unsure.append(f"{_spell(at)} = {read_number(model, at)}")
    if unsure:
        rest = f" and {len(unsure) - _MOST_NOTED} more" if len(unsure) > _MOST_NOTED else ""
        network.notes = (
            *network.notes,
            "These may count channels of one kind or another, and stay as they are: "
            f"{', '.join(unsure[:_MOST_NOTED])}{rest}.",
        )


def _find(
    model: nn.Module, network: Network, passes: Sequence[ForwardPass]
) -> tuple[list[Size], list[str]]:
    places = _integers_in(model)
    if not places:
        return [], []
    modules = dict(list_modules(model))
    known = set()
    for size in network.sizes:
        module = modules.get(size.owner) or model.get_submodule(size.owner)
        known.add(identity(module, Attribute(size.owner, size.attribute, size.position)))
    open_ = [
        (alike, read_number(model, alike[0]) or 0)
        for key, alike in places.items()
        if key not in known
    ]
    arrays = _Arrays(network, passes, {value for _, value in open_})
    found, unsure = [], []
    for alike, value in open_:
        first = alike[0]
        # An object that several modules hold counts for all of them.
        kinds = arrays.kinds([at.owner for at in alike], first, value)
        if len(kinds) == 1 and arrays.may_change(kinds[0]) and not _is_one_of_equals(model, first):
            found.append(Size(first.owner, first.name, first.item, Product(1, (kinds[0],))))
        elif any(map(arrays.may_change, kinds)):
            unsure.append(f"{_spell(first)} = {value}")
    return found, unsure


def _integers_in(model: nn.Module) -> dict[tuple[int, str, str | int | None], list[Attribute]]:
    """By what is the same for all: where users' own layers keep what may count channels."""
    places: dict[tuple[int, str, str | int | None], list[Attribute]] = {}
    for owner, module in list_modules(model):
        if type(module).__module__.startswith("torch.nn."):
            continue  # their sizes are known by name
        for at, value in numbers_in(owner, module):
            if _counts(at, value) and not _says_itself(module, at):
                places.setdefault(identity(module, at), []).append(at)
    return places


def _is_one_of_equals(model: nn.Module, at: Attribute) -> bool:
    """Whether it is in a pair, say, of one number: (16, 16) is a window rather than channels."""
    if not isinstance(at.item, int):
        return False
    around = read(model, Attribute(at.owner, at.name))
    return isinstance(around, (list, tuple)) and len(around) > 1 and len(set(map(str, around))) == 1


def _spell(at: Attribute) -> str:
    item = "" if at.item is None else f"[{at.item!r}]"
    return f"{at.owner}.{at.name}{item}".lstrip(".")


def _says_itself(module: nn.Module, at: Attribute) -> bool:
    """Whether it is in a configuration of Transformers, which is brought up to date by name."""
    holder = vars(module).get(at.name.partition(".")[0])
    return at.is_far and type(holder).__module__.partition(".")[0] == "transformers"


def _first(size: Size) -> str:
    """The module's attribute that holds a size, itself or somewhere inside."""
    return size.attribute.partition(".")[0]


def may_count(attribute: str, value: object) -> bool:
    """Whether this may be a number of channels, by its value and what it is called."""
    number = value if is_whole_number(value) else 0
    return number > 1 and not _NO_CHANNELS.search(attribute)


def _counts(at: Attribute, value: int) -> bool:
    names = [*at.name.split("."), *([at.item] if isinstance(at.item, str) else [])]
    return all(may_count(name, value) for name in names)


class _Axis(NamedTuple):
    """Channels along an axis: what it does, the layer's size that counts them, if any, units."""

    role: Role | None
    size: str
    units: Ids


class _Arrays:
    """The channels that lie along axes inside each module.

    Args:
        network: as traced.
        passes: with their operations.
        lengths: of the axes that are asked for.
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
        self._outputs: set[tuple[str, int]] = set()
        self._keys: dict[int, bytes] = {}
        for size in network.sizes:
            if len(size.value.axes) == 1 and size.value.constant == 1 and size.position is None:
                self._add(size.owner, None, size.attribute, size.value.axes[0])
        for tensor in network.tensors.values():
            for axis, units in tensor.axes.items():
                self._add(tensor.layer, tensor.roles.get(axis), "", units)
        for operation in (o for forward in passes for o in forward.operations):
            for _, axes in operation.outputs:
                for units in axes.values():
                    key = (operation.layer, id(units))  # a norm gives what a convolution gave it
                    if key not in self._outputs:
                        self._outputs.add(key)
                        self._add(operation.layer, None, "", units)

    def _add(self, layer: str, role: Role | None, name: str, units: Ids) -> None:
        of_length = self._by_length.get(len(units))
        if of_length is not None:
            of_length.setdefault(layer, []).append(_Axis(role, name, units))

    def kinds(self, owners: Sequence[str], at: Attribute, value: int) -> list[Ids]:
        """Channels inside some modules of which there are so many, one array of each kind."""
        inside = [
            axis
            for layer, axes in self._by_length.get(value, {}).items()
            if any(owner in ("", layer) or layer.startswith(f"{owner}.") for owner in owners)
            for axis in axes
        ]
        name = at.item if isinstance(at.item, str) else at.name.rpartition(".")[2]
        for chosen in self._likeliest(name, inside):
            if chosen:
                units = {id(axis.units): axis.units for axis in chosen}.values()
                return list({self._key(one): one for one in units}.values())
        return []

    def _likeliest(self, attribute: str, inside: Sequence[_Axis]) -> Iterator[Sequence[_Axis]]:
        """Sizes of layers that are called so; axes of the side that the name tells; all."""
        yield [one for one in inside if one.size == attribute]
        for pattern, role in _SIDES:
            if pattern.search(attribute):
                yield [one for one in inside if one.role is role]
        yield inside

    def _key(self, units: Ids) -> bytes:
        """The same for axes that always keep the same number."""
        if id(units) not in self._keys:
            rows = self._atoms[units]
            self._keys[id(units)] = rows[np.lexsort(rows.T)].tobytes()
        return self._keys[id(units)]

    def may_change(self, units: Ids) -> bool:
        """Whether any cut removes some of these."""
        return bool(self._prunable[self._atoms[units]].any())


def _find_read(
    model: nn.Module, network: Network, passes: Sequence[ForwardPass], sizes: Sequence[Size]
) -> set[tuple[str, str]]:
    """(owner, attribute) of those of the sizes that a pass reads; all, where that is not known."""
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
    """An attribute that says when it is read; its value stays where it was."""

    def value(module: nn.Module) -> object:
        reads.add((owner, name))
        return vars(module)[name]

    return property(value)
