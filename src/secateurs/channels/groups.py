"""How atoms form groups, how groups are named, and what is frozen and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.tensors import Mixing, Role, Tensor, layer_of

NOT_REACHED = "the forward pass never reads it"


@dataclass(frozen=True, slots=True)
class Member:
    """An axis that a group's channels run along.

    Attributes:
        tensor: name of the tensor.
        axis: one of its axes.
        role: what the axis does.
        each: number of its indices that one channel covers.
    """

    tensor: str
    axis: int
    role: Role
    each: int

    @property
    def layer(self) -> str:
        """The layer the tensor belongs to."""
        return layer_of(self.tensor)


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that run along the same axes: what a user sees as a layer's channels.

    Attributes:
        name: name of the first layer whose filters these are.
        channels: the atoms, in the order of that layer's filters, shape (channels,).
        members: all axes that they run along.
        inexact: operations that mix these channels, so that removing some changes the values of
            the others.
    """

    name: str
    channels: Ids
    members: tuple[Member, ...]
    inexact: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.channels)

    def with_role(self, *roles: Role) -> tuple[Member, ...]:
        """The members that have one of these roles."""
        return tuple(member for member in self.members if member.role in roles)


@dataclass(frozen=True, slots=True)
class Frozen:
    """Indices of axes that cannot be removed, and why."""

    name: str
    count: int
    members: tuple[str, ...]
    reasons: tuple[str, ...]


def groups_of(
    tensors: Collection[Tensor], solution: Solution, mixings: Sequence[Mixing]
) -> list[Group]:
    """Group the atoms that touch the same axes with the same number of indices each."""
    users: dict[int, list[tuple[Tensor, int]]] = {}
    arrays: list[Ids] = []
    for tensor in tensors:
        for axis, units in sorted(tensor.axes.items()):
            if id(units) not in users:
                users[id(units)] = []
                arrays.append(units)
            users[id(units)].append((tensor, axis))
    inexact = _inexact(solution, mixings)
    groups = []
    lengths = {tensor.name: tensor.shape for tensor in tensors}
    used_names: Counter[str] = Counter()
    for touched, alike in _atoms_by_signature(arrays, solution):
        members = tuple(
            Member(tensor.name, axis, tensor.roles.get(axis, Role.OTHER), each)
            for number, each in touched
            for tensor, axis in users[id(arrays[number])]
        )
        if any(member.each == lengths[member.tensor][member.axis] for member in members):
            continue  # one channel that covers a whole axis: removing it would leave nothing
        for channels in _sides(alike, solution.atoms[arrays[touched[0][0]]]):
            name = _group_name(members, len(channels))
            used_names[name] += 1
            if used_names[name] > 1:
                name = f"{name}#{used_names[name]}"
            mixed: list[str] = []
            if inexact:
                mixed = sorted({text for atom in channels for text in inexact.get(atom, ())})
            groups.append(Group(name, np.array(channels), members, tuple(mixed)))
    return groups


def _sides(alike: list[int], needs: Ids) -> Iterator[list[int]]:
    """Split atoms that touch the same axes into the rows and the columns of a grid.

    The rows and columns of a square grid touch the same axes equally often, but a row and a column
    share a cell, and two rows never do.
    """
    if needs.shape[1] == 1:
        yield alike
        return
    rest = alike
    while rest:
        meets = np.unique(needs[(needs == rest[0]).any(axis=1)])
        others = np.isin(rest, meets[meets != rest[0]])
        yield [atom for atom, other in zip(rest, others, strict=True) if not other]
        rest = [atom for atom, other in zip(rest, others, strict=True) if other]


def _atoms_by_signature(
    arrays: Sequence[Ids], solution: Solution
) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """([(number of the array, indices in it)], atoms that touch exactly these), by first atom.

    The arrays that an atom touches are stored as a linked chain: each array appends a link, and
    atoms that had the same chain so far and touch as many indices of the array share the new link.
    """
    links: list[tuple[int, int, int]] = [(0, 0, 0)]  # the link before, array's number, indices
    ends = np.zeros(int(solution.atoms.max(initial=0)) + 1, np.int64)
    for number, units in enumerate(arrays):
        atoms = solution.atoms[units].ravel()
        atoms = atoms[atoms != ALWAYS]
        if (atoms[1:] > atoms[:-1]).all():  # sorted and distinct, as most are
            found, times = atoms, np.ones(len(atoms), np.int64)
        else:
            found, times = np.unique(atoms, return_counts=True)
        steps = ends[found] * (int(times.max(initial=0)) + 1) + times
        if len(steps) and (steps == steps[0]).all():
            links.append((int(ends[found[0]]), number, int(times[0])))
            ends[found] = len(links) - 1
            continue
        _, firsts, kinds = np.unique(steps, return_index=True, return_inverse=True)
        ends[found], before = len(links) + kinds, ends[found]
        links += [(int(before[first]), number, int(times[first])) for first in firsts]
    touching = np.flatnonzero(ends)
    order = touching[np.argsort(ends[touching], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(ends[order])) + 1) if len(order) else []
    parts.sort(key=lambda atoms: int(atoms[0]))
    return [(_chain(links, int(ends[atoms[0]])), atoms.tolist()) for atoms in parts]


def _chain(links: Sequence[tuple[int, int, int]], end: int) -> list[tuple[int, int]]:
    """The (number of the array, indices in it) of a link and all before it, in order."""
    found = []
    while end:
        end, number, each = links[end]
        found.append((number, each))
    return found[::-1]


def _inexact(solution: Solution, mixings: Sequence[Mixing]) -> dict[int, set[str]]:
    mixed: dict[int, set[str]] = {}
    for mixing in mixings:
        reason = str(mixing)
        for atom in np.unique(solution.atoms[mixing.units]).tolist():
            mixed.setdefault(atom, set()).add(reason)
    return mixed


def positions_of(
    group: Group, member: Member, tensors: Mapping[str, Tensor], solution: Solution
) -> Ids:
    """Indices of a group's channels along a member's axis; shape (channels, member.each)."""
    atoms = solution.atoms[tensors[member.tensor].axes[member.axis]]
    if is_one_by_one(group.channels, atoms):
        return np.arange(len(group)).reshape(-1, 1)
    place = np.full(solution.count, -1)
    place[group.channels] = np.arange(len(group))
    at, column = np.nonzero(place[atoms] >= 0)
    order = np.argsort(place[atoms[at, column]], kind="stable")
    return at[order].reshape(len(group), member.each)


def is_one_by_one(channels: Ids, atoms: Ids) -> bool:
    """Whether each channel is just one index of an axis, in the axis' order.

    Args:
        channels: the atoms of a group.
        atoms: the atoms that each index of the axis needs, shape (indices, atoms).
    """
    return atoms.shape[1] == 1 and np.array_equal(atoms[:, 0], channels)


def naming_member(members: Sequence[Member]) -> Member:
    """The member that a group is named after: the first axis whose filters these are."""
    return next((m for m in members if m.role is Role.FILTER), members[0])


def _group_name(members: Sequence[Member], count: int) -> str:
    first = naming_member(members)
    return first.layer if first.each == 1 else f"{first.layer}/{count}x{first.each}"


def list_frozen(tensors: Iterable[Tensor], solution: Solution) -> list[Frozen]:
    """List indices that nothing can remove; equal indices with equal reasons make one entry."""
    stuck: dict[tuple[bytes, tuple[str, ...]], tuple[int, list[str]]] = {}
    for tensor in tensors:
        is_read = bool(tensor.axes) if tensor.is_read is None else tensor.is_read
        if not is_read and tensor.is_parameter and tensor.shape:
            stuck[tensor.name.encode(), (NOT_REACHED,)] = (tensor.shape[0], [tensor.layer])
        for axis, units in sorted(tensor.axes.items()):
            still = units[~solution.atoms[units].any(axis=1)]
            if len(still):
                why = {r: None for u in still.tolist() for r in solution.reasons.get(u, ())}
                key = (still.tobytes(), tuple(why))
                role = tensor.roles.get(axis)
                suffix = " (input)" if role is Role.INPUT else ""
                stuck.setdefault(key, (len(still), []))[1].append(tensor.layer + suffix)
    return [
        Frozen(names[0], count, tuple(dict.fromkeys(names)), reasons)
        for (_, reasons), (count, names) in stuck.items()
    ]


def members(frozen: Iterable[Frozen]) -> list[str]:
    """Names of the tensors in these entries, each once."""
    return list(dict.fromkeys(name for one in frozen for name in one.members))
