"""A traced network: its tensors, the groups of channels in it, and what is frozen and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.arguments import CHANNELS, LAYERS, instance, takes
from secateurs.channels.blocks import Block, BlockCut, table_of_blocks
from secateurs.channels.configuration import Configuration
from secateurs.channels.cost import Contraction, Cost, Product, Products
from secateurs.channels.cut import Cache, ChannelCut, Cut, Rescaling, SizeChange, TensorCut
from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.groups import (
    Frozen,
    Group,
    Member,
    frozen_in,
    groups_of,
    members,
    naming_member,
)
from secateurs.channels.tensors import Mixing, Role, Scaling, Size, Tensor
from secateurs.errors import CutError, ModelError, UnknownNameError, nearest
from secateurs.formatting import megabytes, notebook_html, percent

__all__ = [
    "Block",
    "Frozen",
    "Group",
    "Member",
    "Mixing",
    "Network",
    "Role",
    "Scaling",
    "Size",
    "Source",
    "Tensor",
    "members",
]


class Source(Protocol):
    """What a network knows of the model it was traced from, in NumPy's terms."""

    @property
    def framework(self) -> str:
        """'pytorch' or 'keras'."""
        ...

    @property
    def model(self) -> Any:
        """The user's own model, unchanged."""
        ...

    @property
    def example_inputs(self) -> Any:
        """What it was traced with."""
        ...

    def array(self, name: str) -> NDArray[Any]:
        """A tensor's present values."""
        ...

    def find_blocks(self, network: Network) -> Sequence[Block]:
        """The residual blocks that can go whole, in the order in which they run."""
        ...

    def configuration(self) -> Configuration | None:
        """What the model's own configuration can say of its widths; None where it has none."""
        ...


class Network:
    """Tensors, groups of channels and costs of one traced model. Never changes the model."""

    def __init__(
        self,
        tensors: Sequence[Tensor],
        contractions: Sequence[Contraction],
        sizes: Sequence[Size],
        mixings: Sequence[Mixing],
        solution: Solution,
        source: Source,
        name: str = "network",
        notes: Sequence[str] = (),
        scalings: Sequence[Scaling] = (),
        caches: Sequence[Cache] = (),
        layer_channels: Mapping[str, Ids] | None = None,
        multiples: Sequence[tuple[Ids, int]] = (),
    ) -> None:
        """What a trace found.

        Args:
            tensors: of the model.
            contractions: what its operations cost.
            sizes: integers that follow channels.
            mixings: operations that mix channels.
            solution: of the equations between units.
            source: the framework's own knowledge of the model.
            name: of the model.
            notes: shown below the table.
            scalings: factors that follow channels.
            caches: what the model keeps of a pass for the next one.
            layer_channels: layer -> the units that its users number as its channels, where these
                are not simply the filters of one weight (an LSTM's units are not the columns of
                its kernel).
            multiples: (units, of what their number has to stay a multiple), where an operation
                refuses other widths.
        """
        self.name = name
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.contractions = tuple(contractions)
        self.sizes = tuple(sizes)
        self.mixings = tuple(mixings)
        self.solution = solution
        self.source = source
        self.notes = tuple(notes)
        self.scalings = tuple(scalings)
        self.caches = tuple(caches)
        self.layer_channels = dict(layer_channels or {})
        self._multiples = tuple(multiples)

    # -- what can be pruned, and what cannot

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of channels that can be pruned, in the order of the model's tensors."""
        return tuple(groups_of(self.tensors.values(), self.solution, self.mixings))

    @cached_property
    def frozen(self) -> tuple[Frozen, ...]:
        """What cannot be pruned, and why."""
        return tuple(frozen_in(self.tensors.values(), self.solution))

    @cached_property
    def frozen_for(self) -> dict[str, tuple[Frozen, ...]]:
        """Why -> what cannot be pruned because of it."""
        found: dict[str, list[Frozen]] = {}
        for one in self.frozen:
            found.setdefault("; ".join(one.reasons), []).append(one)
        return {why: tuple(all_of_it) for why, all_of_it in found.items()}

    @cached_property
    def _group_by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def group(self, name: str) -> Group:
        """The group of this name.

        Raises:
            UnknownNameError: there is none.
        """
        try:
            return self._group_by_name[name]
        except KeyError:
            known = list(self._group_by_name)
            raise UnknownNameError(f"no group named {name!r}{nearest(name, known)}") from None

    def positions(self, group: Group, member: Member) -> Ids:
        """Where the group's channels lie along a member's axis; shape (channels, member.each)."""
        atoms = self.solution.atoms[self.tensors[member.tensor].axes[member.axis]]
        place = np.full(self.solution.count, -1)
        place[group.channels] = np.arange(len(group))
        at, column = np.nonzero(place[atoms] >= 0)
        order = np.argsort(place[atoms[at, column]], kind="stable")
        return at[order].reshape(len(group), member.each)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks that can go whole, in the order in which they run.

        Looked for when first asked for, by one more forward pass.
        """
        return tuple(self.source.find_blocks(self))

    def explain_blocks(self) -> str:
        """The blocks as a table: what goes with each, and how much it changes its input."""
        total = self.cost()
        return table_of_blocks(self.blocks, total.params, total.macs)

    def multiple_of(self, group: Group) -> int:
        """Of what an operation wants the group's width to be a multiple; 1 for most."""
        return self._multiple_by_group.get(group.name, 1)

    @cached_property
    def _multiple_by_group(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for units, multiple in self._multiples:
            atoms = np.unique(self.solution.atoms[units])
            for group in self.groups:
                if np.isin(group.channels, atoms).any():
                    found[group.name] = math.lcm(multiple, found.get(group.name, 1))
        return found

    # -- costs

    @cached_property
    def _parameter_sizes(self) -> Products:
        return self._products([t.size for t in self.tensors.values() if t.is_parameter])

    @cached_property
    def _byte_sizes(self) -> Products:
        return self._products(
            [Product(t.size.constant * t.itemsize, t.size.axes) for t in self.tensors.values()]
        )

    @cached_property
    def _macs(self) -> Products:
        return self._products([contraction.macs for contraction in self.contractions])

    @cached_property
    def _needs(self) -> dict[str, Ids]:
        """For each group, the atoms that the places along its layer's width need, one row each."""
        needs = {}
        for group in self.groups:
            member = naming_member(group.members)
            rows = self.solution.atoms[self.tensors[member.tensor].axes[member.axis]]
            needs[group.name] = rows[np.isin(rows, group.channels).any(axis=1)]
        return needs

    def sides(self, group: Group) -> int:
        """How many groups make up the group's width: 2 for heads by positions, 1 for most."""
        return int((self._needs[group.name] != ALWAYS).sum(axis=1).max(initial=1))

    def places(self, group: Group) -> float:
        """How many places along widths each of its channels takes with it: 1 for most."""
        if self.sides(group) == 1:
            return 1.0
        return float(np.isin(self.grid_cells, group.channels).any(axis=1).sum() / len(group))

    @cached_property
    def lone_channels(self) -> Ids:
        """The channels that are a place of a width each."""
        alone = [group.channels for group in self.groups if self.sides(group) == 1]
        return np.concatenate([*alone, np.zeros(0, np.int64)])

    @cached_property
    def grid_cells(self) -> Ids:
        """The atoms that each place of a width needs, where it is a cell of a grid."""
        rows = [self._needs[group.name] for group in self.groups if self.sides(group) > 1]
        none = np.zeros((0, self.solution.atoms.shape[1]), np.int64)
        return np.unique(np.concatenate([*rows, none]), axis=0)

    def _products(self, products: Sequence[Product]) -> Products:
        return Products(self.solution, products)

    def alive(self, removed: Iterable[int] | Ids = ()) -> NDArray[np.bool_]:
        """Which atoms stay when these are removed; shape (atoms,)."""
        alive = np.ones(self.solution.count, bool)
        alive[np.asarray(removed, np.int64)] = False
        alive[ALWAYS] = True
        return alive

    def cost_of(self, alive: NDArray[np.bool_]) -> Cost:
        """What is left, given which atoms stay."""
        return Cost(
            params=int(self._parameter_sizes.values(alive).sum()),
            macs=int(self._macs.values(alive).sum()),
            bytes=int(self._byte_sizes.values(alive).sum()),
            channels=int(
                alive[self.lone_channels].sum() + alive[self.grid_cells].all(axis=1).sum()
            ),
        )

    def cost(self, cut: Cut | None = None) -> Cost:
        """What the network costs, dense or after ``cut``."""
        if cut is None:
            return self.cost_of(self.alive())
        return self.cost_of(self.alive(self.removed_by(cut)))

    def params(self, cut: Cut | None = None) -> int:
        """Numbers in the parameters, dense or after ``cut``."""
        return self.cost(cut).params

    def macs(self, cut: Cut | None = None) -> int:
        """Multiply-accumulates of a pass over the example inputs, dense or after ``cut``."""
        return self.cost(cut).macs

    def bytes(self, cut: Cut | None = None) -> int:
        """Bytes of parameters and buffers, dense or after ``cut``."""
        return self.cost(cut).bytes

    # -- cuts

    @takes(channels=CHANNELS)
    def cut(self, channels: Mapping[str, Sequence[int] | Ids]) -> Cut:
        """The cut that removes these channels: group name -> indices inside the group.

        Raises:
            UnknownNameError: no such group.
            CutError: an index out of range or given twice, or all channels of a group.
        """
        chosen: dict[str, tuple[int, ...]] = {}
        removed: list[Ids] = []
        for name, indices in channels.items():
            group = self.group(name)
            chosen[name] = _check_indices(name, indices, len(group))
            removed.append(group.channels[list(chosen[name])])
        alive = self.alive(np.concatenate([*removed, np.zeros(0, np.int64)]))
        return Cut(
            self._tensor_cuts(alive),
            self._size_changes(alive),
            {
                name: ChannelCut(len(self.group(name)), indices)
                for name, indices in chosen.items()
                if indices
            },
            self.rescalings(alive),
            self.cost(),
            self.cost_of(alive),
            self.caches,
        )

    def cut_of_layers(self, layers: Mapping[str, Sequence[int]]) -> Cut:
        """The cut that removes these filters: layer name -> indices of its filters.

        Whatever is coupled to them goes too.

        Raises:
            UnknownNameError: no such layer.
            CutError: the filters are frozen, out of range, given twice or all of them, or are part
                of a grid (heads, convolution groups) and not whole rows or columns of it.
        """
        atoms = [self._atoms_of(layer, indices) for layer, indices in layers.items()]
        removed = np.unique(np.concatenate([*atoms, np.zeros(0, np.int64)]))
        chosen = {
            group.name: np.flatnonzero(np.isin(group.channels, removed)).tolist()
            for group in self.groups
        }
        return self.cut({name: indices for name, indices in chosen.items() if indices})

    @takes(blocks=LAYERS)
    def cut_of_blocks(self, blocks: Sequence[str]) -> Cut:
        """The cut that takes these blocks out whole, by their names in ``.blocks``.

        Raises:
            UnknownNameError: no such block.
        """
        known = {block.name: block for block in self.blocks}
        unknown = [name for name in blocks if name not in known]
        if unknown:
            raise UnknownNameError(
                f"no block named {unknown[0]!r} that can go whole{nearest(unknown[0], list(known))}"
            )
        gone = tuple(known[name].cut for name in dict.fromkeys(blocks))
        return Cut(before=self.cost(), after=self.cost_without(gone), blocks=gone)

    def cost_without(self, blocks: Sequence[BlockCut]) -> Cost:
        """What the network costs without these blocks."""

        def stays(name: str) -> bool:
            return not any(block.takes_with_it(name) for block in blocks)

        kept = [t for t in self.tensors.values() if any(map(stays, (t.name, *t.aliases)))]
        sums = [c.macs for c in self.contractions if stays(c.layer)]
        units = [units for tensor in kept for units in tensor.axes.values()]
        rows = self.solution.atoms[np.concatenate([*units, np.zeros(0, np.int64)])]
        cells = np.concatenate([self.grid_cells, np.unique(rows, axis=0)])
        lone = np.isin(self.lone_channels, rows).sum()
        # A cell that lies in something kept is there twice.
        grids = (np.unique(cells, axis=0, return_counts=True)[1] > 1).sum()
        return Cost(
            params=sum(math.prod(tensor.shape) for tensor in kept if tensor.is_parameter),
            macs=int(self._products(sums).values(self.alive()).sum()),
            bytes=sum(math.prod(tensor.shape) * tensor.itemsize for tensor in kept),
            channels=int(lone + grids),
        )

    def cut_like(self, other: Cut) -> Cut:
        """The cut of this network that takes from each tensor what another one takes.

        Groups may be called otherwise here: after layers that the other one's network had not.

        Raises:
            CutError: no channels of this network lie exactly there.
        """
        lying: list[Ids] = []
        gone = np.zeros(len(self.solution.atoms), bool)
        for tensor in self.tensors.values():
            removed = other.tensors[tensor.name].removed if tensor.name in other.tensors else {}
            for axis, units in tensor.axes.items():
                lying.append(units)
                gone[units[list(removed.get(axis, ()))]] = True
        units = np.unique(np.concatenate([*lying, np.zeros(0, np.int64)]))
        atoms = self.solution.atoms
        stay = np.unique(atoms[units[~gone[units]]])
        go = np.setdiff1d(np.unique(atoms[units[gone[units]]]), stay)
        chosen = {g.name: np.flatnonzero(np.isin(g.channels, go)) for g in self.groups}
        found = self.cut({name: indices for name, indices in chosen.items() if len(indices)})
        if found.tensors != other.tensors:
            raise CutError(
                "expected a cut whose channels and tensors agree on this model; received one "
                "planned for another. Plan it again on this model."
            )
        return found

    def removed_by(self, cut: Cut) -> Ids:
        """The atoms a cut of this network removes."""
        removed = [
            self.group(name).channels[list(channels.removed)]
            for name, channels in cut.channels.items()
        ]
        return np.concatenate([*removed, np.zeros(0, np.int64)])

    def _tensor_cuts(self, alive: NDArray[np.bool_]) -> dict[str, TensorCut]:
        stays = self.solution.mark_kept(alive)
        gone_along: dict[int, tuple[int, ...]] = {}
        cuts: dict[str, TensorCut] = {}
        for tensor in self.tensors.values():
            removed = {}
            for axis, units in sorted(tensor.axes.items()):
                if id(units) not in gone_along:
                    gone_along[id(units)] = tuple(np.flatnonzero(~stays[units]).tolist())
                if gone := gone_along[id(units)]:
                    if len(gone) == tensor.shape[axis]:
                        raise CutError(
                            f"{tensor.name}: expected a cut that leaves something of axis {axis}; "
                            f"received one that removes all {len(gone)}. Leave at least one "
                            f"channel."
                        )
                    removed[axis] = gone
            if removed:
                cuts[tensor.name] = TensorCut(tensor.shape, removed)
        return cuts

    def _size_changes(self, alive: NDArray[np.bool_]) -> tuple[SizeChange, ...]:
        products = self._products([size.value for size in self.sizes])
        before, after = products.values(self.alive()), products.values(alive)
        return tuple(
            SizeChange(size.owner, size.attribute, size.position, int(old), int(new))
            for size, old, new in zip(self.sizes, before, after, strict=True)
            if old != new
        )

    def rescalings(self, alive: NDArray[np.bool_]) -> tuple[Rescaling, ...]:
        """The factors on weights that go with what stays."""
        sizes = self._products([scaling.size for scaling in self.scalings])
        before, after = sizes.values(self.alive()), sizes.values(alive)
        return tuple(
            Rescaling(
                scaling.tensor,
                scaling.axis,
                tuple(scaling.indices.tolist()),
                float(new / old) ** scaling.power,
            )
            for scaling, old, new in zip(self.scalings, before, after, strict=True)
            if old != new
        )

    def _atoms_of(self, layer: str, indices: Sequence[int]) -> Ids:
        units = self.layer_channels.get(layer)
        length = 0 if units is None else len(units)
        if units is None:
            tensor, axis = self._filter_axis(layer)
            units, length = tensor.axes.get(axis, np.zeros(0, np.int64)), tensor.shape[axis]
        wanted = _check_indices(layer, indices, length)
        atoms = self.solution.atoms[units]
        for index in wanted:
            if not atoms[index].any():
                why = self.solution.reasons.get(int(units[index]), ())
                raise CutError(
                    f"{layer}: filter {index} cannot be removed: {'; '.join(why) or 'it is frozen'}"
                )
        rest = np.setdiff1d(np.arange(len(units)), wanted)
        whole: Ids = np.setdiff1d(atoms[list(wanted)], atoms[rest])
        whole = whole[whole != ALWAYS]
        if not np.isin(atoms[list(wanted)], whole).any(axis=1).all():
            raise CutError(
                f"{layer}: its filters form a grid (heads or convolution groups), of which only "
                f"whole "
                f"rows or columns can go; received {formatting.ranges(wanted)}. "
                f"Its smallest removable sets: {self._removable_sets(atoms)}"
            )
        return whole

    def _removable_sets(self, atoms: Ids, most: int = 4) -> str:
        numbers = [atom for atom in np.unique(atoms).tolist() if atom != ALWAYS]
        sets = [np.flatnonzero((atoms == atom).any(axis=1)).tolist() for atom in numbers[:most]]
        shown = "; ".join(f"[{formatting.ranges(indices)}]" for indices in sets)
        return f"{shown}{'; ...' if len(numbers) > most else ''}"

    def _filter_axis(self, layer: str) -> tuple[Tensor, int]:
        """The axis that a layer's channels lie along: of its filters, else of its scales, ..."""
        tensors = [t for t in self.tensors.values() if layer in (t.layer, t.name)]
        for role in (Role.FILTER, Role.SCALE, Role.SHIFT, Role.OTHER):
            for tensor in tensors:
                for axis, played in sorted(tensor.roles.items()):
                    if played is role:
                        return tensor, axis
        known = list(
            dict.fromkeys([*(t.layer for t in self.tensors.values()), *self.layer_channels])
        )
        if tensors:
            raise CutError(
                f"{layer}: expected a layer with channels of its own; its tensors have none that "
                "can be followed. Name the layer whose filters make these channels."
            )
        raise UnknownNameError(f"no layer with weights named {layer!r}{nearest(layer, known)}")

    # -- as a table

    def __str__(self) -> str:
        total = self.cost()
        columns = ["group", "channels", "tensors it touches", "parameters", "MACs"]
        rows = []
        for group in self.groups:
            left = self.cost_of(self.alive(group.channels))
            rows.append(
                [
                    group.name,
                    str(len(group)),
                    _show_members([m.layer for m in group.members]),
                    percent(1 - left.params / max(1, total.params)),
                    percent(1 - left.macs / max(1, total.macs)),
                ]
            )
        if any(group.inexact for group in self.groups):
            columns.append("inexact through")
            for row, group in zip(rows, self.groups, strict=True):
                row.append(_show_members(group.inexact, 1))
        parts = [
            f"{self.name}: {formatting.count(total.params)} parameters, "
            f"{formatting.count(total.macs)} MACs, "
            f"{megabytes(total.bytes)}, {len(self.groups)} groups of "
            f"{total.channels} channels that can be pruned",
            formatting.table(columns, rows, (1, 3, 4)),
        ]
        if self.frozen:
            stuck = [
                (why, str(sum(f.count for f in all_of_it)), _show_members(members(all_of_it)))
                for why, all_of_it in self.frozen_for.items()
            ]
            parts.append(
                formatting.table(("cannot be pruned because", "indices", "in"), stuck, (1,))
            )
        return "\n\n".join([*parts, *self.notes])

    def _repr_html_(self) -> str:
        """For notebooks."""
        return notebook_html(self)

    def __repr__(self) -> str:
        return f"<Network {self.name}: {len(self.groups)} groups, {len(self.frozen)} frozen>"


def _check_indices(name: str, indices: Sequence[int] | Ids, size: int) -> tuple[int, ...]:
    given = [int(index) for index in indices]
    outside = [index for index in given if not 0 <= index < size]
    if outside:
        raise CutError(f"{name}: expected indices of 0 to {size - 1}; received {outside[0]}")
    twice = [index for index, times in Counter(given).items() if times > 1]
    if twice:
        raise CutError(f"{name}: expected each index once; received {twice[0]} twice")
    if len(given) == size:
        raise CutError(
            f"{name}: expected a cut that leaves at least one channel; received all {size}. "
            "Remove fewer."
        )
    return tuple(sorted(given))


def _show_members(layers: Sequence[str], most: int = 4) -> str:
    names = list(dict.fromkeys(layers))
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


NETWORK = instance(
    Network,
    "a Network",
    ModelError,
    "network = secateurs.trace(model, example_inputs) makes one.",
)
"""What public functions say of a network."""
