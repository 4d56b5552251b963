"""Names for the groups of attention: which are its heads, and which are positions in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateurs.channels.cost import Contraction
from secateurs.channels.equations import Ids, Solution
from secateurs.channels.groups import Group, naming_member, positions_of
from secateurs.channels.tensors import Tensor

SIDES = {
    2: ("heads", "head_width"),
    3: ("key_value_groups", "heads_per_group", "head_width"),
}
"""Names of the sides of attention's grids by number of sides, the outermost first."""


def name_attention_sides(
    groups: Sequence[Group],
    tensors: Mapping[str, Tensor],
    contractions: Iterable[Contraction],
    solution: Solution,
) -> list[Group]:
    """The groups, those that are sides of attention's grids under names that say which.

    A grid belongs to attention if it takes part in a product of two activations, neither of them a
    weight. The larger the step between its channels, the further out the side. A name that a group
    or a layer has already is not taken.

    Args:
        groups: groups with names by their shape, such as ``q_proj/4x16``.
        tensors: parameters and buffers by name.
        contractions: operations of the forward pass that multiply and sum.
        solution: solution of the network's equations.
    """
    atoms = _atoms_of_activation_products(tensors, contractions, solution)
    sides: dict[tuple[str, int], list[tuple[int, str]]] = {}
    for group in groups:
        if len(group) < 2 or not np.isin(group.channels, atoms).any():
            continue
        for member in group.members:
            first, second = positions_of(group, member, tensors, solution).min(axis=1)[:2]
            along = sides.setdefault((member.tensor, member.axis), [])
            along.append((-abs(int(second - first)), group.name))
    taken = {group.name for group in groups} | {tensor.layer for tensor in tensors.values()}
    found = []
    for group in groups:
        name = _side_name(group, sides)
        name = group.name if name in taken else name
        taken.add(name)
        found.append(replace(group, name=name))
    return found


def _side_name(group: Group, sides: Mapping[tuple[str, int], list[tuple[int, str]]]) -> str:
    member = naming_member(group.members)
    order = [name for _, name in sorted(sides.get((member.tensor, member.axis), []))]
    if group.name not in order or len(order) not in SIDES:
        return group.name
    return f"{member.layer}.{SIDES[len(order)][order.index(group.name)]}"


def _atoms_of_activation_products(
    tensors: Mapping[str, Tensor], contractions: Iterable[Contraction], solution: Solution
) -> Ids:
    """Atoms along the axes of products of two activations, as attention makes."""
    weights = {t.layer for t in tensors.values() if t.is_parameter and len(t.shape) > 1}
    products = [c.macs.axes for c in contractions if c.layer not in weights]
    units = [units for axes in products for units in axes]
    atoms: Ids = solution.atoms[np.concatenate([*units, np.zeros(0, np.int64)])]
    return atoms
