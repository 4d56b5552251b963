"""Which configuration fields narrow which groups, found by asking what each value would build.

No table says what ``hidden_size`` means. For a smaller value, the shapes that would be built say
how many channels each group has to lose. Those are cut, and the field is accepted if a model built
from the changed configuration gives the cut model's outputs. Fields that must change together (a
width and the heads that divide it, two stages that are added) are tried together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from math import gcd

import numpy as np

from secateurs.channels.configuration import Fields, NumberedConfiguration
from secateurs.channels.cut import Cut
from secateurs.channels.groups import naming_member
from secateurs.channels.network import Network

_HEADS = re.compile(r"head(?!.*(?:dim|size|width))")
"""Matches names of fields that count heads."""
_STEPS = (1, 2, 4, 8, 16, 32, 64)
_PARTS = 16
_MOST_POLICIES = 81
_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Move:
    """Fields that shrink together, and the groups that follow them.

    Attributes:
        levels: values of the fields at each step; the first step removes least.
        groups: names of the groups that lose channels.
        idle: names of grid sides that stay whole while other sides of the same grid shrink.
    """

    levels: tuple[Fields, ...]
    groups: frozenset[str]
    idle: frozenset[str]

    @property
    def fields(self) -> set[str]:
        """The paths of its fields."""
        return set(self.levels[0])


@dataclass(frozen=True)
class _Equation:
    """How many indices go from one axis of a tensor: so many for each channel of its groups.

    Attributes:
        terms: (group, indices along the axis per channel).
        total: indices that go.
    """

    terms: tuple[tuple[str, int], ...]
    total: int

    def substitute(self, known: Mapping[str, int]) -> _Equation:
        """The same with what is known of some groups taken to the other side."""
        left = tuple((name, each) for name, each in self.terms if name not in known)
        gone = sum(each * known[name] for name, each in self.terms if name in known)
        return _Equation(left, self.total - gone)

    @property
    def is_decided(self) -> bool:
        """Whether it says alone how many channels go, or that no number of them fits."""
        return self.total == 0 or len(self.terms) < 2

    def counts(self) -> dict[str, int] | None:
        """Group -> channels that go, where that is decided; None if no number fits."""
        if self.total == 0:
            return {name: 0 for name, _ in self.terms}
        if not self.terms:
            return None
        ((name, each),) = self.terms
        return {name: self.total // each} if self.total > 0 and self.total % each == 0 else None


class Lengths:
    """Lengths of the axes of a network's tensors as functions of its groups' channel counts."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._along: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for group in network.groups:
            for member in group.members:
                at = self._along.setdefault((member.tensor, member.axis), [])
                at.append((group.name, member.each))

    @cached_property
    def grids(self) -> dict[str, list[list[str]]]:
        """Kind of grid -> its groups in each layer, by side, the outermost (heads) first."""
        found: dict[str, list[tuple[int, str]]] = {}
        for group in self.network.groups:
            if self.network.widths.sides(group) > 1:
                member = naming_member(group.members)
                at = np.sort(self.network.positions(group, member), axis=1)[:, 0]
                stride = int(abs(at[1] - at[0])) if len(at) > 1 else 0
                found.setdefault(member.layer, []).append((-stride, group.name))
        kinds: dict[str, list[list[str]]] = {}
        for layer, sides in found.items():
            kind = re.sub(r"\d+", "#", layer)
            kinds.setdefault(kind, []).append([name for _, name in sorted(sides)])
        return kinds

    def solve(self, shapes: _Shapes, idle: Collection[str]) -> dict[str, int] | None:
        """Channels that each group must lose for these shapes; None if no counts give them."""
        sums = self._sums(shapes, idle)
        if sums is None:
            return None
        known: dict[str, int] = {}
        while sums:
            left = []
            for equation in sums:
                remaining = equation.substitute(known)
                if not remaining.is_decided:
                    left.append(equation)
                    continue
                counts = remaining.counts()
                if counts is None or not self._keeps_a_channel(counts):
                    return None
                known.update(counts)
            if len(left) == len(sums):
                return None
            sums = left
        return {name: count for name, count in known.items() if count}

    def _keeps_a_channel(self, counts: Mapping[str, int]) -> bool:
        return all(count < len(self.network.group(name)) for name, count in counts.items())

    def _sums(self, shapes: _Shapes, idle: Collection[str]) -> list[_Equation] | None:
        """One equation for each axis of a tensor; None where no cut gives these shapes."""
        sums = []
        for tensor in self.network.tensors.values():
            built = next((shapes[n] for n in (tensor.name, *tensor.aliases) if n in shapes), None)
            if built is None:
                continue  # a constant that is not part of the state
            if len(built) != len(tensor.shape):
                return None
            for axis, (length, left) in enumerate(zip(tensor.shape, built, strict=True)):
                along = self._along.get((tensor.name, axis), [])
                terms = tuple((name, each) for name, each in along if name not in idle)
                if left > length or (left < length and not terms):
                    return None
                sums.append(_Equation(terms, length - left))
        return sums

    def along(self, shapes: _Shapes) -> set[str]:
        """Groups along axes that would have other lengths."""
        return {
            name
            for tensor in self.network.tensors.values()
            for axis, length in enumerate(tensor.shape)
            if shapes.get(tensor.name, tensor.shape)[axis : axis + 1] != (length,)
            for name, _ in self._along.get((tensor.name, axis), [])
        }

    def policies(self, shapes: _Shapes) -> Iterator[frozenset[str]]:
        """Sets of grid sides that may stay whole: for each kind of grid, all sides but one."""
        changed = self.along(shapes)
        kinds = [
            layers
            for layers in self.grids.values()
            if any(name in changed for sides in layers for name in sides)
        ]
        ranks = [range(max(map(len, layers))) for layers in kinds]
        for chosen in islice(product(*ranks), _MOST_POLICIES):
            yield frozenset(
                name
                for layers, rank in zip(kinds, chosen, strict=True)
                for sides in layers
                for place, name in enumerate(sides)
                if place != min(rank, len(sides) - 1)
            )

    def spread(self, counts: Mapping[str, int]) -> Cut:
        """A cut of these counts, spread evenly over each group so that indexing errors show."""
        return self.network.cut(
            {
                name: [place * len(self.network.group(name)) // count for place in range(count)]
                for name, count in counts.items()
            }
        )


def find_moves(
    network: Network, configuration: NumberedConfiguration, skip: Collection[str] = ()
) -> list[Move]:
    """Find what a configuration can express about a network's widths.

    Args:
        network: as traced.
        configuration: configuration of its model.
        skip: names of groups that stay whole.

    Returns:
        The moves; no two share a field, or cut a grid along two of its sides.
    """
    lengths = Lengths(network)
    dense = configuration.shapes({})
    if dense is None or not configuration.rebuilds(Cut(), {}):
        return []
    numbers = configuration.numbers
    moves: list[Move] = []
    taken: set[str] = set()
    for leader in sorted(numbers, key=lambda path: not _HEADS.search(path)):
        if leader in taken or not _can_matter(lengths, configuration, dense, leader):
            continue
        move = _move_of(leader, lengths, configuration, taken, dense)
        if move is None or move.groups & set(skip):
            continue
        if any(move.groups & other.idle or move.idle & other.groups for other in moves):
            continue
        moves.append(move)
        taken |= move.fields
    return moves


def _can_matter(
    lengths: Lengths, configuration: NumberedConfiguration, dense: _Shapes, path: str
) -> bool:
    """Whether a field, alone or with others, may change the lengths of groups' axes."""
    numbers = configuration.numbers
    value = numbers[path]
    tries = [value * 0.5] if isinstance(value, float) else [value - 1, value // 2]
    built = [configuration.shapes({path: one}) for one in tries]
    if all(one == dense for one in built):
        return bool(_HEADS.search(path)) and sum(map(bool, map(_HEADS.search, numbers))) > 1
    named_alike = [one for one in built if one is not None and one.keys() == dense.keys()]
    if named_alike:
        return any(lengths.along(one) for one in named_alike)
    # Other tensors altogether, or none: useless unless fields of the same value change with it.
    return None in built or sum(other == value for other in numbers.values()) > 1


def _move_of(
    leader: str,
    lengths: Lengths,
    configuration: NumberedConfiguration,
    taken: Collection[str],
    dense: _Shapes,
) -> Move | None:
    for paths in _together(leader, configuration.numbers):
        if any(path in taken for path in paths):
            continue
        for levels in _ladders(paths, configuration.numbers):
            shapes = configuration.shapes(levels[0])
            fits = shapes is not None and shapes.keys() == dense.keys()
            solved = list(_solutions(lengths, shapes)) if shapes and fits else []
            solved = [counts for counts in solved if _leaves_whole_multiples(lengths, counts)]
            for counts in solved:
                if configuration.rebuilds(lengths.spread(counts), levels[0]):
                    return _move(lengths, levels, frozenset(counts))
            if solved:
                break  # widths fit but outputs differ; other steps of these fields would not help
    return None


def _leaves_whole_multiples(lengths: Lengths, counts: Mapping[str, int]) -> bool:
    """Whether all widths are accepted by the operations that read them."""
    groups = ((lengths.network.group(name), count) for name, count in counts.items())
    return all((len(g) - count) % lengths.network.multiple_of(g) == 0 for g, count in groups)


def _solutions(lengths: Lengths, shapes: _Shapes) -> Iterator[dict[str, int]]:
    for idle in lengths.policies(shapes):
        counts = lengths.solve(shapes, idle)
        if counts:
            yield counts


def _move(lengths: Lengths, levels: tuple[Fields, ...], groups: frozenset[str]) -> Move:
    grids = [sides for layers in lengths.grids.values() for sides in layers]
    whole = {name for sides in grids if groups & set(sides) for name in sides} - groups
    return Move(levels, groups, frozenset(whole))


def _together(leader: str, numbers: Fields) -> Iterator[list[str]]:
    """Yield sets of fields to try together, the leader alone first (except for heads)."""
    near = _beside(leader, numbers)
    heads = [path for path in near if _HEADS.search(path)]
    if _HEADS.search(leader):
        if heads:
            yield [leader, *heads]
        yield [leader]
        return
    alike = [p for p in near if numbers[p] == numbers[leader] and p not in heads]
    heads = _same_entry(leader, heads) or heads
    yield [leader]
    if heads:
        yield [leader, *heads]
    for other in alike if len(alike) > 1 else ():
        yield [leader, other]
    if alike:
        yield [leader, *alike]
    if alike and heads:
        yield [leader, *alike, *heads]


def _beside(leader: str, numbers: Fields) -> list[str]:
    """The other fields of the same part of the configuration, or of the same list in it."""
    scope = _scope_of(leader)
    return [path for path in numbers if _scope_of(path) == scope and path != leader]


def _same_entry(leader: str, paths: Sequence[str]) -> list[str]:
    """Of entries of other lists, those at the leader's place in its own list."""
    place = leader.rpartition(".")[2]
    return [path for path in paths if place.isdecimal() and path.endswith(f".{place}")]


def _scope_of(path: str) -> list[str]:
    parts = path.split(".")[:-1]
    return parts[:-1] if parts and path.rpartition(".")[2].isdecimal() else parts


def _ladders(paths: Sequence[str], numbers: Fields) -> Iterator[tuple[Fields, ...]]:
    """Yield sequences of ever smaller values of fields that shrink by the same share."""
    values = [numbers[path] for path in paths]
    if any(isinstance(value, float) for value in values):
        if len(paths) == 1:
            parts = range(_PARTS - 1, 0, -1)
            yield tuple({paths[0]: values[0] * part / _PARTS} for part in parts)
        return
    whole = [int(value) for value in values]
    if len(set(whole)) == 1:
        yield from _equal_ladders(paths, whole[0], numbers)
    elif (common := gcd(*whole)) > 1:
        yield tuple(
            {path: value * part // common for path, value in zip(paths, whole, strict=True)}
            for part in range(common - 1, 0, -1)
        )


def _equal_ladders(
    paths: Sequence[str], value: int, numbers: Fields
) -> Iterator[tuple[Fields, ...]]:
    """The same of fields of one value, by steps of several sizes; heads that divide it are one."""
    heads = {int(n) for p, n in numbers.items() if _HEADS.search(p) and value % n == 0}
    for step in sorted({*_STEPS, *(value // n for n in heads), value // 2, value // 4}):
        if 0 < step < value:
            yield tuple(dict.fromkeys(paths, value - taken) for taken in range(step, value, step))
