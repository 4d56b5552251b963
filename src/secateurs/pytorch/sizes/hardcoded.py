"""Sizes baked into a forward pass: followed where that can be done, else frozen with the line.

A model's code may hold sizes as plain integers: ``self.num_heads`` in a ``view``, ``C // heads``, a
literal. They are found by rehearsing cuts on shapes (``rehearsal.py``) and then, in this order,

1. *followed*: an integer attribute of a module whose code was running has the dense value; it is
   made to follow the channels it counts, and the rehearsal shows whether that was right;
2. *tied*: the wrong length is the number of some other channels; the two are made to go together,
   so that the numbers agree again (a residual stream and the heads times positions that add to it);
3. *frozen*: nothing explains it, so exactly the channels concerned stay, and the line is told.

A factor computed from a size (an attention's scale) is put right in the weights before it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateurs.channels.cost import Product
from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network, Scaling, Size
from secateurs.pytorch.sizes.dry_run import (
    START,
    DryRun,
    Findings,
    Raised,
    WrongNumber,
    WrongSize,
)
from secateurs.pytorch.sizes.rescaling import parts_before
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.op_record import ForwardPass
from secateurs.pytorch.tracing.tracer import Tracer

Attribute = tuple[str, str, int | None]
Shares = Callable[[Sequence[Group]], dict[str, list[int]]]
Build = Callable[[Sequence[Size], Sequence[Scaling]], Network]

MOST_ROUNDS = 24


class BakedSizes:
    """Tries cuts out and answers what goes wrong, until they run as foretold."""

    def __init__(
        self, model: nn.Module, tracer: Tracer, passes: Sequence[ForwardPass], build: Build
    ) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._tracer = tracer
        self._passes = passes
        self._build = build
        self._links: dict[Attribute, Size] = {}
        self._scalings: dict[tuple[int, ...], list[Scaling]] = {}
        self._powers: dict[tuple[int, ...], tuple[Ids, float]] = {}
        self._seen: dict[tuple[int, ...], list[tuple[NDArray[np.bool_], float]]] = {}
        self._candidates: dict[tuple[int, ...], Iterator[Attribute]] = {}
        self._linked_for: dict[tuple[int, ...], Attribute] = {}
        self._places: dict[int, dict[tuple[str, str], list[int]]] = {}
        self._is_runnable: bool | None = None
        self._atoms = np.zeros((0, 1), np.int64)

    def settle(self) -> Network:
        """The network, with what the model's code keeps from being cut frozen."""
        network = self._present()
        for shares in (_different_shares(0), _one_each, _different_shares(1)):
            for _ in range(MOST_ROUNDS):
                findings, stays = self._try_out(network, shares(network.groups))
                if not findings:
                    break
                if findings.raised is not None and not self._runs_uncut(network):
                    return self._present()  # nothing to be learnt; the proof will have to do
                self._answer(network, findings, stays, shares)
                network = self._present()
            else:
                self._freeze_culprits(network, shares, "its forward pass cannot be made to follow")
                network = self._present()
        return network

    def _present(self) -> Network:
        # A pass in train mode meets the same factor again; the weights are put right once.
        found = itertools.chain.from_iterable(self._scalings.values())
        scalings = {(s.tensor, s.axis, s.indices.tobytes()): s for s in found}
        return self._build(list(self._links.values()), list(scalings.values()))

    def _try_out(
        self, network: Network, channels: Mapping[str, Sequence[int]]
    ) -> tuple[Findings, NDArray[np.bool_]]:
        cut = network.cut(channels)
        stays = network.solution.kept(network.alive(network.removed_by(cut)))
        if not cut:
            return Findings(), stays
        return self._rehearsed(cut, stays), stays

    def _runs_uncut(self, network: Network) -> bool:
        """Whether the dense model runs without data; if not, no rehearsal of a cut tells."""
        if self._is_runnable is None:
            stays = np.ones(len(network.solution.atoms), dtype=np.bool_)
            self._is_runnable = self._rehearsed(network.cut({}), stays).raised is None
        return self._is_runnable

    def _rehearsed(self, cut: Cut, stays: NDArray[np.bool_]) -> Findings:
        found = Findings()
        small = cut_copy(self._model, cut, without_data=True)
        for number, forward in enumerate(self._passes):
            new = DryRun(small, forward, number, stays).rehearse()
            found.sizes += new.sizes
            found.numbers += [n for n in new.numbers if not self._is_put_right(n, stays)]
            found.raised = found.raised or new.raised
        return found

    # -- answers, the gentlest first

    def _answer(
        self, network: Network, findings: Findings, stays: NDArray[np.bool_], shares: Shares
    ) -> None:
        raised = findings.raised
        self._atoms = network.solution.atoms
        stuck = [wrong for wrong in findings.sizes if wrong.is_stuck]
        # A check in the code that failed: perhaps of what it was about to ask for.
        guesses = raised.next if raised is not None and not findings.sizes else ()
        # What followed something and is wrong all the same was not that. All of it is free again
        # before anything else is tried: two may have followed each other's number.
        again = [wrong for wrong in findings.sizes if wrong.key in self._linked_for]
        sought = {wrong.key: wrong for wrong in (*stuck, *again, *guesses)}.values()
        for wrong in sought:
            self._let_go(wrong)
        followed = [self._follow(wrong) for wrong in sought]
        if any(followed):
            return
        followed = [self._follow_factor(wrong, stays) for wrong in findings.sizes]
        if any(followed):
            return
        # Each kind of answer changes what the others see, so one kind at a time.
        answers: tuple[tuple[Callable[..., bool], Sequence[WrongSize | WrongNumber]], ...] = (
            (self._freeze, stuck),
            (self._tie, findings.sizes),
            (self._freeze, findings.sizes),
            (self._rescale, findings.numbers if findings.raised is None else ()),
        )
        for answer, wrongs in answers:
            given = [answer(wrong, stays) for wrong in wrongs]  # all of them, not only the first
            if any(given):
                return
        if raised is not None and self._follow_after(raised):
            return
        lines = [raised.line] if raised is not None else []
        lines += [wrong.line for wrong in findings.sizes]
        lines += [wrong.line for wrong in findings.numbers]
        line = lines[0] if lines else ""
        said = f": {raised.message}" if raised is not None else ""
        self._freeze_culprits(network, shares, f"a size does not follow at {line}{said}")

    def _let_go(self, wrong: WrongSize) -> None:
        failed = self._linked_for.pop(wrong.key, None)
        if failed is not None:
            self._links.pop(failed, None)

    def _follow_factor(self, wrong: WrongSize, stays: NDArray[np.bool_]) -> bool:
        """A product of two lengths, one of which did not follow: that one is to."""
        sides = None if wrong.units is None else self._tracer.equations.sides(wrong.units)
        if wrong.is_stuck or wrong.got is None or sides is None:
            return False
        foretold = int(stays[wrong.units].sum())
        for number, side in enumerate(sides):
            kept, size = int(stays[side].sum()), len(side)
            if kept != size and wrong.got * kept == foretold * size:
                key = (*wrong.key, number)
                factor = replace(wrong, key=key, units=side, dense=size, got=size)
                self._let_go(factor)
                return self._follow(factor)
        return False

    def _follow(self, wrong: WrongSize) -> bool:
        """Let an attribute of the running modules follow the channels; if one was, the next."""
        if wrong.units is None:
            return False
        if wrong.key not in self._candidates:
            order = sorted(self._attributes(wrong), key=lambda one: self._distance(one, wrong))
            self._candidates[wrong.key] = iter(order)
        for attribute in self._candidates[wrong.key]:
            if self._link(attribute, wrong.key, wrong.units):
                self._link_alike(attribute, wrong)
                return True
        return False

    def _distance(self, attribute: Attribute, wrong: WrongSize) -> int:
        """How far-fetched it is that a wrong length is this attribute.

        Nearest is what these channels follow already; then what the same axis of such an operation
        of the layer follows (keys after queries, where there are as many heads as positions); then
        what nothing follows yet.
        """
        known = self._links.get(attribute)
        if known is None:
            return 2
        if self._are_one(known.value.axes[0], wrong.units):
            return 0
        kind = self._kind(wrong.key)
        linked = (key for key, link in self._linked_for.items() if link == attribute)
        return 1 if any(self._kind(key) == kind for key in linked) else 3

    def _are_one(self, units: Ids, others: Ids | None) -> bool:
        """Whether these channels go together as things are."""
        if others is None or len(units) != len(others):
            return False
        known = max(units.max(initial=0), others.max(initial=0)) < len(self._atoms)
        return known and np.array_equal(self._atoms[units], self._atoms[others])

    def _kind(self, key: tuple[int, ...]) -> tuple[object, ...]:
        number, at, *where = key
        operation = self._passes[number].operations[at]
        return (operation.layer, operation.name, *where)

    def _link(self, attribute: Attribute, key: tuple[int, ...], units: Ids) -> bool:
        """Let an attribute follow these channels; False if it follows something else."""
        known = self._links.get(attribute)
        if known is None:
            self._links[attribute] = Size(*attribute, Product(1, (units,)))
            self._linked_for[key] = attribute
            return True
        if len(known.value.axes[0]) == len(units):
            # One number counts both: they go together.
            self._tracer.equations.equate(known.value.axes[0], units)
            return True
        return False

    def _link_alike(self, attribute: Attribute, wrong: WrongSize) -> None:
        """What one layer needed, others of its kind will: a rehearsal may not get as far as them.

        The same operation is the one that is as far on in its layer; the next rehearsal shows
        whether this was right, as for any other attribute.
        """
        owner, name, item = attribute
        number, at, place, axis, *factor = wrong.key
        if factor:
            return
        places = self._places_in(number)
        operation = self._passes[number].operations[at]
        if operation.layer != owner or place == START:
            return
        nth = places[owner, operation.name].index(at)
        for path, module in self._modules.items():
            same = places.get((path, operation.name), [])[nth : nth + 1]
            if path == owner or type(module) is not type(self._modules[owner]) or not same:
                continue
            shapes = self._passes[number].operations[same[0]].outputs
            shape, axes = shapes[place] if place < len(shapes) else ((), {})
            key = (number, same[0], place, axis)
            if key in self._candidates or axis not in axes or shape[axis] != wrong.dense:
                continue
            if _item_of(module, name, item) == wrong.dense:
                self._link((path, name, item), key, axes[axis])

    def _places_in(self, number: int) -> dict[tuple[str, str], list[int]]:
        """(layer, operation) -> where that operation is done there in a pass."""
        if number not in self._places:
            found: dict[tuple[str, str], list[int]] = {}
            for at, operation in enumerate(self._passes[number].operations):
                found.setdefault((operation.layer, operation.name), []).append(at)
            self._places[number] = found
        return self._places[number]

    def _attributes(self, wrong: WrongSize) -> Iterator[Attribute]:
        for layer in wrong.layers:
            for attribute, value in vars(self._modules[layer]).items():
                if _is_integer(value) and value == wrong.dense:
                    yield layer, attribute, None
                elif isinstance(value, (list, tuple)) and all(map(_is_integer, value)):
                    for place, item in enumerate(value):
                        if item == wrong.dense:
                            yield layer, attribute, place

    def _tie(self, wrong: WrongSize, stays: NDArray[np.bool_]) -> bool:
        """Make the channels go together with those whose number the wrong length is."""
        if wrong.got is None or wrong.is_stuck or wrong.key[2] == START:
            return False
        number, at, place, axis = wrong.key
        axes = self._passes[number].operations[at].outputs[place][1]
        rows = axes.get(axis - 1)  # heads before positions, in every layout there is
        for units in self._arrays_before(wrong):
            kept = int(stays[units].sum())
            if len(units) == wrong.dense and kept == wrong.got and kept != len(units):
                return self._equate(wrong, units, wrong.units)
            is_product = rows is not None and len(units) == wrong.dense * len(rows)
            if is_product and kept // int(stays[rows].sum()) == wrong.got:
                return self._equate(wrong, units, wrong.units, rows)
        return False

    def _equate(
        self, wrong: WrongSize, units: Ids, own: Ids | None, rows: Ids | None = None
    ) -> bool:
        """Two axes must keep the same number; so the same channels of both go.

        Only the numbers matter, so heads and positions are paired in one order wherever they meet,
        though one reshape may have the heads outside and the next one inside.
        """
        equations = self._tracer.equations
        if own is None:
            equations.freeze(units, f"their number must stay as it is at {wrong.line}")
            return True
        sides = equations.sides(own) if rows is None else (rows, own)
        if sides is not None and len(sides) == 2:
            own = equations.compose(sorted(sides, key=len))
        equations.equate(units, own)
        return True

    def _arrays_before(self, wrong: WrongSize) -> Iterator[Ids]:
        """Channels met so far, the latest first, each array once."""
        seen: set[bytes] = set()
        operations = self._passes[wrong.key[0]].operations[: wrong.key[1]]
        for operation in reversed(operations):
            for _, axes in operation.outputs:
                for units in axes.values():
                    if (key := units.tobytes()) not in seen:
                        seen.add(key)
                        yield units

    def _rescale(self, wrong: WrongNumber, stays: NDArray[np.bool_]) -> bool:
        """Put a factor that follows a size right in the weights before it, or freeze the size."""
        operation = self._passes[wrong.key[0]].operations[wrong.key[1]]
        seen = self._seen.setdefault(wrong.key, [])
        seen.append((stays, wrong.got / wrong.dense if wrong.dense else math.nan))
        size, power = _explanation(seen, list(self._sizes_before(wrong)))
        if size is None:
            size, _ = _explanation(seen[-1:], list(self._sizes_before(wrong)))
            if size is not None:
                self._tracer.equations.freeze(size, f"a factor computed from it at {wrong.line}")
            return size is not None
        scales = operation.name in ("aten.mul", "aten.mul_", "aten.scaled_dot_product_attention")
        divides = operation.name in ("aten.div", "aten.div_")
        parts = parts_before(operation.operands[0]) if scales or divides else None
        if parts is None:
            reason = f"a factor computed from their number at {wrong.line}"
            self._tracer.equations.freeze(size, reason)
            return True
        sign = 1 if divides else -1
        self._powers[wrong.key] = (size, power)
        self._scalings[wrong.key] = [
            Scaling(leaf.name, axis, indices, Product(1, (size,)), sign * power)
            for leaf, axis, indices in parts
        ]
        return True

    def _is_put_right(self, wrong: WrongNumber, stays: NDArray[np.bool_]) -> bool:
        if wrong.key not in self._powers:
            return False
        units, power = self._powers[wrong.key]
        share = float(stays[units].sum()) / len(units)
        return math.isclose(share**power, wrong.got / wrong.dense, rel_tol=1e-6)

    def _sizes_before(self, wrong: WrongNumber) -> Iterator[Ids]:
        operation = self._passes[wrong.key[0]].operations[wrong.key[1]]
        for labels in operation.operands:
            yield from labels.axes.values()
        key = (*wrong.key[:2], 0, 0)
        yield from self._arrays_before(WrongSize(key, None, 0, None, wrong.line, ()))

    def _freeze(self, wrong: WrongSize, stays: NDArray[np.bool_]) -> bool:
        if wrong.units is None or stays[wrong.units].all():
            return False
        what = f"the number {wrong.dense} is baked in" if wrong.is_stuck else "a size is baked in"
        self._tracer.equations.freeze(wrong.units, f"{what} at {wrong.line}")
        return True

    def _follow_after(self, raised: Raised) -> bool:
        """A check in the code failed: try the integers of the modules it was in, class by class."""
        for layer in raised.layers:
            module = self._modules[layer]
            for attribute, value in vars(module).items():
                if not _is_integer(value) or (layer, attribute, None) in self._links:
                    continue
                candidates = self._candidates.setdefault(
                    (-1, *map(ord, f"{type(module).__name__}.{attribute}")),
                    iter([(layer, attribute, None)]),
                )
                if next(candidates, None) is None:
                    continue
                if self._link_class(type(module), layer, attribute, value):
                    return True
        return False

    def _link_class(self, kind: type, layer: str, attribute: str, value: int) -> bool:
        """Let an attribute of every module of a class follow the same axis of its own weights."""
        axis = next(self._own_axes(layer, value), None)
        if axis is None:
            return False
        for path, module in self._modules.items():
            if type(module) is kind and (path, attribute, None) not in self._links:
                units = self._units_of(f"{path}.{axis[0]}".lstrip("."), axis[1])
                if units is not None and getattr(module, attribute) == len(units):
                    size = Size(path, attribute, None, Product(1, (units,)))
                    self._links[path, attribute, None] = size
        return True

    def _own_axes(self, layer: str, length: int) -> Iterator[tuple[str, int]]:
        prefix = f"{layer}." if layer else ""
        for leaf in self._tracer.leaves.values():
            if leaf.name.startswith(prefix):
                for axis, units in leaf.axes.items():
                    if len(units) == length:
                        yield leaf.name.removeprefix(prefix), axis

    def _units_of(self, name: str, axis: int) -> Ids | None:
        for leaf in self._tracer.leaves.values():
            if leaf.name == name:
                return leaf.axes.get(axis)
        return None

    # -- the last resort

    def _freeze_culprits(self, network: Network, shares: Shares, reason: str) -> None:
        """Freeze the groups whose cut does not run, found by halving."""
        channels = shares(network.groups)
        for name in self._culprits(network, channels, list(channels)) or list(channels):
            atoms = network.group(name).channels
            touched = np.isin(network.solution.atoms, atoms).any(axis=1)
            self._tracer.equations.freeze(np.flatnonzero(touched), reason)

    def _culprits(
        self, network: Network, channels: Mapping[str, Sequence[int]], names: list[str]
    ) -> list[str]:
        findings, _ = self._try_out(network, {name: channels[name] for name in names})
        if not findings or not names:
            return []
        if len(names) == 1:
            return names
        middle = len(names) // 2
        halves = (names[:middle], names[middle:])
        found = [name for half in halves for name in self._culprits(network, channels, half)]
        return found or names  # they only block each other together: none of them may go


def _item_of(module: nn.Module, name: str, item: int | None) -> Any:
    """An attribute, or an item of one; None where there is none."""
    value = vars(module).get(name)
    if item is None:
        return value
    return value[item] if isinstance(value, (list, tuple)) and item < len(value) else None


def _explanation(
    seen: Sequence[tuple[NDArray[np.bool_], float]], arrays: Sequence[Ids]
) -> tuple[Ids | None, float]:
    """Channels and a power: each ratio seen is (how many stay / how many there were)^power.

    Square roots first: they are what attention divides by, and a whole power may fit by chance.
    """
    for power in (-0.5, 0.5, -1.0, 1.0):
        for units in arrays:
            if len(seen[-1][0]) <= units.max() or seen[-1][0][units].all():
                continue
            shares = [float(stays[units].sum()) / len(units) for stays, _ in seen]
            pairs = zip(shares, seen, strict=True)
            if all(math.isclose(share**power, ratio, rel_tol=1e-6) for share, (_, ratio) in pairs):
                return units, power
    return None, 0.0


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_each(groups: Sequence[Group]) -> dict[str, list[int]]:
    return {group.name: [0] for group in groups if len(group) > 1}


def _different_shares(seed: int) -> Shares:
    """A share of each group, as different as can be, so that sizes do not agree by chance."""

    def shares(groups: Sequence[Group]) -> dict[str, list[int]]:
        random = np.random.default_rng(seed)
        return {
            group.name: random.permutation(len(group))[: random.integers(1, len(group))].tolist()
            for group in groups
            if len(group) > 1
        }

    return shares
