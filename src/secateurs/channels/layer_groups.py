"""The groups that hold a layer's channels, found by the layer's name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.groups import Group
from secateurs.channels.tensors import Role, Size
from secateurs.errors import UnknownNameError, nearest

HEADS = ("num_heads", "num_query_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
"""Attributes in which attention layers keep the number of their heads."""


def groups_by_layer(
    groups: Sequence[Group],
    solution: Solution,
    sizes: Iterable[Size],
    layer_channels: Mapping[str, Ids],
) -> dict[str, tuple[str, ...]]:
    """Layer -> names of the groups that hold its channels.

    These are the groups of its own filters; of a layer that has none, those of the layers inside
    it. An attention layer has several (heads, positions inside a head); its name stands for its
    heads.

    Args:
        groups: the groups of the network.
        solution: solution of the equations between units.
        sizes: integers that follow channel counts; some count heads.
        layer_channels: layer -> units that its users number as its channels, where these are not
            the filters of one weight.
    """
    direct: dict[str, dict[str, None]] = {}
    inside: dict[str, dict[str, None]] = {}
    for group in groups:
        for member in group.with_role(Role.FILTER):
            direct.setdefault(member.layer, {})[group.name] = None
            for path in _parents(member.layer):
                inside.setdefault(path, {})[group.name] = None
    holders = {atom: group.name for group in groups for atom in group.channels.tolist()}
    numbered = {
        layer: _holders(holders, solution, units) for layer, units in layer_channels.items()
    }
    counted = {
        size.owner: _holders(holders, solution, *size.value.axes)
        for size in sizes
        if size.attribute in HEADS
    }
    heads = {layer: names for layer, names in counted.items() if len(names) == 1}
    found = inside | direct | {layer: names for layer, names in numbered.items() if names} | heads
    return {layer: tuple(names) for layer, names in found.items()}


def group_of_layer(
    layer: str, groups_of: Mapping[str, tuple[str, ...]], groups: Collection[str]
) -> str:
    """Name of the one group that holds a layer's channels.

    Args:
        layer: name of the layer.
        groups_of: layer -> names of the groups that hold its channels.
        groups: names of all groups.

    Raises:
        UnknownNameError: there is no such group or layer, or its channels are in several groups.
    """
    found = [name for name in groups_of.get(layer, ()) if name in groups]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:6])
        raise UnknownNameError(
            f"{layer}: expected the name of a group, or of a layer whose channels are in one; its "
            f"channels are in {len(found)}: {shown}{', ...' if len(found) > 6 else ''}. Name one."
        )
    raise UnknownNameError(f"no group named {layer!r}{nearest(layer, list(groups))}")


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition(".")[0]:
        yield path


def _holders(holders: Mapping[int, str], solution: Solution, *axes: Ids) -> dict[str, None]:
    """Names of the groups whose channels these units belong to."""
    atoms = (np.unique(solution.atoms[units]).tolist() for units in axes)
    return {holders[a]: None for along in atoms for a in along if a != ALWAYS and a in holders}
