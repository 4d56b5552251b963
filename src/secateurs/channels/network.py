"""A traced network: its tensors, its groups of channels, and what is frozen and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import CHANNELS, ONE_OR_MORE_NAMES, instance, takes
from secateurs.channels.attention_names import name_attention_sides
from secateurs.channels.blocks import Block, BlockCut, table_of_blocks
from secateurs.channels.configuration import NumberedConfiguration
from secateurs.channels.cost import Contraction, Cost
from secateurs.channels.cut import Cache, ChannelCut, Cut, Rescaling
from secateurs.channels.cut_parts import change_sizes, cut_tensors, rescale
from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.groups import (
    Frozen,
    Group,
    Member,
    groups_of,
    list_frozen,
    members,
    positions_of,
)
from secateurs.channels.layer_filters import LayerFilters, check_indices
from secateurs.channels.layer_groups import group_of_layer, groups_by_layer
from secateurs.channels.network_costs import NetworkCosts
from secateurs.channels.network_table import format_network
from secateurs.channels.tensors import Mixing, Role, Scaling, Size, Tensor
from secateurs.channels.widths import Widths
from secateurs.errors import CutError, ModelError, UnknownNameError, nearest
from secateurs.formatting import notebook_html

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
    """The model that a network was traced from, seen through NumPy."""

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
        """Inputs that it was traced with."""
        ...

    @property
    def device(self) -> str:
        """Type of the device that the model is on: 'cpu', 'cuda', ..."""
        ...

    def array(self, name: str) -> NDArray[Any]:
        """Present values of a tensor."""
        ...

    def find_blocks(self, network: Network) -> Sequence[Block]:
        """The residual blocks that can be removed whole, in the order in which they run."""
        ...

    def configuration(self) -> NumberedConfiguration | None:
        """The model's own configuration, where it defines widths; None if there is none."""
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
        """Collect the results of a trace.

        Args:
            tensors: parameters and buffers of the model.
            contractions: costs of its operations.
            sizes: integers that follow channel counts.
            mixings: operations that mix channels.
            solution: solution of the equations between units.
            source: access to the model, in its framework.
            name: name of the model.
            notes: lines shown below the table.
            scalings: factors that follow channel counts.
            caches: tensors that the model caches from one pass for the next.
            layer_channels: layer -> units that its users number as its channels, where these are
                not simply the filters of one weight (an LSTM's units are not the columns of its
                kernel).
            multiples: (units, number that their count must stay a multiple of), for operations
                that reject other widths.
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
        return tuple(named for _, named in self._groups_by_geometry)

    @cached_property
    def _groups_by_geometry(self) -> tuple[tuple[str, Group], ...]:
        """Each group with its name by shape: ``q_proj/4x16`` for ``q_proj.heads``."""
        plain = groups_of(self.tensors.values(), self.solution, self.mixings)
        named = name_attention_sides(plain, self.tensors, self.contractions, self.solution)
        return tuple((group.name, other) for group, other in zip(plain, named, strict=True))

    @cached_property
    def frozen(self) -> tuple[Frozen, ...]:
        """What cannot be pruned, and why."""
        return tuple(list_frozen(self.tensors.values(), self.solution))

    @cached_property
    def frozen_for(self) -> dict[str, tuple[Frozen, ...]]:
        """Reason -> what cannot be pruned because of it."""
        found: dict[str, list[Frozen]] = {}
        for one in self.frozen:
            found.setdefault("; ".join(one.reasons), []).append(one)
        return {why: tuple(all_of_it) for why, all_of_it in found.items()}

    @cached_property
    def _group_by_name(self) -> dict[str, Group]:
        by_geometry = dict(self._groups_by_geometry)
        return by_geometry | {group.name: group for group in self.groups}

    @cached_property
    def groups_by_layer(self) -> dict[str, tuple[str, ...]]:
        """Layer -> names of the groups that hold its channels; of an attention layer, its heads."""
        return groups_by_layer(self.groups, self.solution, self.sizes, self.layer_channels)

    def group(self, name: str) -> Group:
        """Get a group by its name, or by the name of a layer whose channels are in one group.

        Raises:
            UnknownNameError: there is no such group, or the layer's channels are in several.
        """
        if name not in self._group_by_name:
            name = group_of_layer(name, self.groups_by_layer, self._group_by_name)
        return self._group_by_name[name]

    def positions(self, group: Group, member: Member) -> Ids:
        """Indices of the group's channels along a member's axis; shape (channels, member.each)."""
        return positions_of(group, member, self.tensors, self.solution)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks that can be removed whole, in the order in which they run.

        They are found on first access, by one more forward pass.
        """
        return tuple(self.source.find_blocks(self))

    def explain_blocks(self) -> str:
        """Format the blocks as a table: what is removed with each, and how it changes its input."""
        total = self.cost()
        return table_of_blocks(self.blocks, total.params, total.macs)

    def multiple_of(self, group: Group) -> int:
        """Number that the group's width must be a multiple of; 1 for most."""
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
    def widths(self) -> Widths:
        """The positions along the widths of the groups."""
        return Widths(self.groups, self.tensors, self.solution)

    @cached_property
    def costs(self) -> NetworkCosts:
        """Costs of the network for any choice of kept atoms."""
        tensors = self.tensors.values()
        return NetworkCosts(tensors, self.contractions, self.solution, self.widths)

    def alive(self, removed: Iterable[int] | Ids = ()) -> NDArray[np.bool_]:
        """Mask of the atoms that are kept when these are removed; shape (atoms,)."""
        alive = np.ones(self.solution.count, bool)
        alive[np.asarray(removed, np.int64)] = False
        alive[ALWAYS] = True
        return alive

    def cost_of(self, alive: NDArray[np.bool_]) -> Cost:
        """Cost of what is left, given a mask of the kept atoms."""
        return self.costs.after(alive)

    def cost(self, cut: Cut | None = None) -> Cost:
        """Cost of the network, dense or after ``cut``."""
        if cut is None:
            return self.cost_of(self.alive())
        alive = self.alive(self.removed_by(cut))
        return self.cost_without(cut.blocks, alive) if cut.blocks else self.cost_of(alive)

    def params(self, cut: Cut | None = None) -> int:
        """Number of parameters, dense or after ``cut``."""
        return self.cost(cut).params

    def macs(self, cut: Cut | None = None) -> int:
        """Multiply-accumulates of a pass over the example inputs, dense or after ``cut``."""
        return self.cost(cut).macs

    def bytes(self, cut: Cut | None = None) -> int:
        """Bytes of parameters and buffers, dense or after ``cut``."""
        return self.cost(cut).bytes

    # -- cuts

    @takes(channels=CHANNELS, blocks=ONE_OR_MORE_NAMES)
    def cut(self, channels: Mapping[str, Sequence[int] | Ids], blocks: Sequence[str] = ()) -> Cut:
        """The cut that removes these channels: group name -> indices inside the group.

        Args:
            channels: group name -> indices to remove inside the group.
            blocks: names of residual blocks in ``.blocks`` to remove whole as well; entries in
                ``channels`` for groups that lie inside them are then redundant.

        Raises:
            UnknownNameError: no such group, or no such block.
            CutError: an index out of range or given twice, or all channels of a group.
        """
        if blocks:
            return self._cut_both(channels, self.cut_of_blocks(blocks))
        chosen: dict[str, tuple[int, ...]] = {}
        removed: list[Ids] = []
        for name, indices in channels.items():
            group = self.group(name)
            chosen[group.name] = check_indices(name, indices, len(group))
            removed.append(group.channels[list(chosen[group.name])])
        alive = self.alive(np.concatenate([*removed, np.zeros(0, np.int64)]))
        return Cut(
            cut_tensors(self.tensors.values(), self.solution, alive),
            change_sizes(self.sizes, self.solution, alive),
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

    @takes(layers=CHANNELS)
    def cut_of_layers(self, layers: Mapping[str, Sequence[int]]) -> Cut:
        """The cut that removes these filters: layer name -> indices of its filters.

        Everything coupled to them is removed too.

        Raises:
            UnknownNameError: no such layer.
            CutError: the filters are frozen, out of range, given twice or all of them, or are part
                of a grid (heads, convolution groups) and not whole rows or columns of it.
        """
        filters = LayerFilters(self.tensors.values(), self.solution, self.layer_channels)
        atoms = [filters.find_atoms(layer, indices) for layer, indices in layers.items()]
        removed = np.unique(np.concatenate([*atoms, np.zeros(0, np.int64)]))
        chosen = {
            group.name: np.flatnonzero(np.isin(group.channels, removed)).tolist()
            for group in self.groups
        }
        return self.cut({name: indices for name, indices in chosen.items() if indices})

    @takes(blocks=ONE_OR_MORE_NAMES)
    def cut_of_blocks(self, blocks: Sequence[str]) -> Cut:
        """The cut that removes these blocks whole, by their names in ``.blocks``.

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

    def _cut_both(self, channels: Mapping[str, Sequence[int] | Ids], whole: Cut) -> Cut:
        """One cut of these channels and these blocks."""
        inside = {group.name for block in whole.blocks for group in self.groups_inside(block)}
        given = {self.group(name).name: indices for name, indices in channels.items()}
        narrower = self.cut({name: of for name, of in given.items() if name not in inside})
        after = self.cost_without(whole.blocks, self.alive(self.removed_by(narrower)))
        return replace(narrower.with_blocks(whole.blocks), after=after)

    def groups_inside(self, block: BlockCut) -> tuple[Group, ...]:
        """Groups of channels that are removed with a block: those that lie entirely inside it."""
        return tuple(
            group
            for group in self.groups
            if all(self._goes_with(block, member.tensor) for member in group.members)
        )

    def _goes_with(self, block: BlockCut, tensor: str) -> bool:
        names = (tensor, *self.tensors[tensor].aliases)
        return all(block.takes_with_it(name) for name in names)

    def cost_without(
        self, blocks: Sequence[BlockCut], alive: NDArray[np.bool_] | None = None
    ) -> Cost:
        """Cost of the network without these blocks, and with only these atoms of the rest."""
        return self.costs.without(blocks, self.alive() if alive is None else alive)

    def cut_like(self, other: Cut) -> Cut:
        """The cut of this network that removes from each tensor what another cut removes.

        Group names may differ here, where the other network had layers that this one has not.

        Raises:
            CutError: no channels of this network match exactly.
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
        """The atoms that a cut of this network removes."""
        removed = [
            self.group(name).channels[list(channels.removed)]
            for name, channels in cut.channels.items()
        ]
        return np.concatenate([*removed, np.zeros(0, np.int64)])

    def rescalings(self, alive: NDArray[np.bool_]) -> tuple[Rescaling, ...]:
        """Factors on weights that are needed with only these atoms kept."""
        return rescale(self.scalings, self.solution, alive)

    # -- as a table

    def __str__(self) -> str:
        return format_network(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return notebook_html(self)

    def __repr__(self) -> str:
        return f"<Network {self.name}: {len(self.groups)} groups, {len(self.frozen)} frozen>"


NETWORK = instance(
    Network,
    "a Network",
    ModelError,
    "network = secateurs.trace(model, example_inputs) makes one.",
)
"""How public functions check an argument that is a network."""
