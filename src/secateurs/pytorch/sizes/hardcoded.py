"""Resolve sizes that a forward pass has hard-coded, or freeze the channels and report the line.

A model's code may hold sizes as plain integers: ``self.num_heads`` in a ``view``, ``C // heads``, a
literal. No operation records where its numbers came from, so they are found by trial: a cut is made
on shapes alone (``dry_run.py``), each mismatch gets a repair (``repairs.py``), and the next cut
shows whether the repair was right. A repair is one of three:

1. *followed*: an attribute of a running module equals the dense size; it is bound to the channel
   count (``bindings.py``);
2. *tied*: the wrong length equals the number of some other channels; the two are removed together,
   so that the numbers agree again (a residual stream and the heads times positions added to it);
3. *frozen*: nothing explains the mismatch, so exactly the channels concerned are frozen, and the
   reason names the line.

A factor computed from a size (an attention's scale) is compensated by rescaling the preceding
weights (``factors.py``).

Termination: a place is given each of its candidates once, a refuted tie is not tried again, and
what is frozen stays frozen; a maximum number of rounds is enforced as well. Safety: nothing here
makes a cut correct. It only makes cuts possible, and each cut that is made is proven against the
dense model afterwards.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from torch import nn

from secateurs.channels.arrays import Stays
from secateurs.channels.cut import Cut
from secateurs.channels.equations import ALWAYS, Ids
from secateurs.channels.network import Group, Network, Scaling, Size
from secateurs.pytorch.model.attributes import Attribute, read, write_
from secateurs.pytorch.sizes.bindings import Bindings, Key, Tie
from secateurs.pytorch.sizes.dry_run import DryRun, Findings
from secateurs.pytorch.sizes.factors import Factors
from secateurs.pytorch.sizes.repairs import Repairs
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.op_record import ForwardPass
from secateurs.pytorch.tracing.tracer import Tracer

TrialShares = Callable[[Sequence[Group]], dict[str, list[int]]]
Build = Callable[[Sequence[Size], Sequence[Scaling], Sequence[Tie]], Network]

MOST_ROUNDS = 24
"""Maximum number of dry runs for one kind of cut."""

MOST_SWEEPS = 3
"""Maximum number of repetitions of the cuts that reveal numbers counting several groups."""

NEIGHBOURS = 3
"""Number of preceding groups from which a group's share of removed channels should differ."""

UNRESOLVED = "a size hard-coded in its forward() could not be resolved"


class HardcodedSizes:
    """Tries cuts and repairs mismatches, until they run with the expected shapes."""

    def __init__(
        self, model: nn.Module, tracer: Tracer, passes: Sequence[ForwardPass], build: Build
    ) -> None:
        self._model = model
        self._tracer = tracer
        self._passes = passes
        self._build = build
        self._factors = Factors()
        self._bindings = Bindings(model, passes, tracer.equations, self._probe)
        self._repairs = Repairs(model, tracer, passes, self._bindings, self._factors)
        self._is_runnable: bool | None = None
        self._network = self._build((), (), ())
        self._units = tracer.equations.count
        self._bindings.look_at(self._network.solution, self._network.solution)

    def settle(self) -> Network:
        """The network, with all channels frozen that the model's code keeps from being cut."""
        if not self._settle_all():
            return self._network  # dry runs tell nothing here; the proof still guards the cut
        for _ in range(MOST_SWEEPS):
            before = self._network
            if self._counts_several_together():
                for shares in (_every_second, _every_second_pair):
                    self._settle(shares)
            if self._network is before:
                break
        return self._network

    def _settle_all(self) -> bool:
        """Try every kind of cut until none needs a repair; False where dry runs tell nothing.

        After a repair, the cuts that ran before it are tried again.
        """
        ran = 0
        for shares in itertools.islice(itertools.cycle(TRIALS), MOST_SWEEPS * len(TRIALS)):
            before = self._network
            if not self._settle(shares):
                return False
            ran = ran + 1 if self._network is before else 1
            if ran == len(TRIALS):
                break
        return True

    def _counts_several_together(self) -> bool:
        """Whether one integer counts channels of several groups, or frozen ones with others."""
        atoms = self._network.solution.atoms
        counted = [units for size in self._bindings.sizes() for units in size.value.axes]
        counted = [units for units in counted if units.max(initial=0) < len(atoms)]
        group_of = np.full(self._network.solution.count, -1)
        for number, group in enumerate(self._network.groups):
            group_of[group.channels] = number
        return any(len(set(group_of[atoms[units].max(axis=1)])) > 1 for units in counted)

    def _settle(self, shares: TrialShares) -> bool:
        """Try one kind of cut until it runs; False where dry runs of this model tell nothing."""
        for _ in range(MOST_ROUNDS):
            findings, stays = self._try_out(shares(self._network.groups))
            if not findings:
                return True
            if findings.raised is not None and not self._runs_uncut():
                return False
            if not self._repairs.answer(findings, stays, self._second_look):
                self._freeze_culprits(shares, _reason(findings), findings.raised is not None)
            self._solve()
        self._freeze_culprits(shares, UNRESOLVED)
        self._solve()
        return True

    def _solve(self) -> None:
        """Rebuild the network from all that is known; undo ties that contradict the rest."""
        before = self._network.solution
        while True:
            sizes, ties = self._bindings.sizes(), self._bindings.ties()
            self._network = self._build(sizes, self._factors.scalings(), ties)
            self._units = self._tracer.equations.count
            if not self._bindings.look_at(before, self._network.solution):
                return

    # -- trying out

    def _try_out(self, channels: Mapping[str, Sequence[int]]) -> tuple[Findings, Stays]:
        network = self._network
        cut = network.cut(channels)
        stays = network.solution.mark_kept(network.alive(network.removed_by(cut)))[: self._units]
        return (self._dry_run(cut, stays) if cut else Findings()), stays

    def _second_look(self) -> tuple[Findings, Stays] | None:
        """Try the same network with a different cut."""
        return self._try_out(different_shares(2)(self._network.groups))

    def _runs_uncut(self) -> bool:
        """Whether the dense model runs without data; if not, no dry run of a cut tells anything."""
        if self._is_runnable is None:
            found = self._dry_run(self._network.cut({}), self._all_stay())
            self._is_runnable = found.raised is None
        return self._is_runnable

    def _all_stay(self) -> Stays:
        return np.ones(self._units, dtype=np.bool_)

    def _dry_run(self, cut: Cut, stays: Stays) -> Findings:
        return self._run(cut_copy(self._model, cut, without_data=True), stays)

    def _run(self, small: nn.Module, stays: Stays) -> Findings:
        found = Findings()
        for number, forward in enumerate(self._passes):
            new = DryRun(small, forward, number, stays).rehearse()
            found.sizes += new.sizes
            found.numbers += new.numbers
            found.raised = found.raised or new.raised
        if not found.sizes and found.raised is None:
            found.numbers += self._factors.list_unchanged(found.numbers, stays)
        found.numbers = [n for n in found.numbers if not self._factors.is_put_right(n, stays)]
        return found

    def _probe(self, attributes: Collection[Attribute], doubled: bool) -> Collection[Key] | None:
        """The places whose length changes when these attributes of the dense model do."""
        changed = cut_copy(self._model, self._network.cut({}), without_data=True)
        for attribute in attributes:
            present = read(changed, attribute)
            if isinstance(present, int):
                write_(changed, attribute, 2 * present if doubled else present + 1)
        found = self._run(changed, self._all_stay())
        return None if found.raised is not None else {wrong.key for wrong in found.sizes}

    # -- the last resort

    def _freeze_culprits(self, shares: TrialShares, reason: str, ends_early: bool = False) -> None:
        """Freeze the groups whose cut does not run, found by bisection.

        With ``ends_early``, only the groups that make the forward pass raise are frozen first: the
        mismatches of the others may be repaired once these are out of the way.
        """
        channels = shares(self._network.groups)
        names = list(channels)
        for name in (ends_early and self._culprits(channels, names, True)) or (
            self._culprits(channels, names) or names
        ):
            self._tracer.equations.freeze(self._units_of(name), reason)

    def _units_of(self, name: str) -> Ids:
        """Units that go with this group alone; the other side of a grid may still be cut."""
        atoms = self._network.solution.atoms[: self._units]
        touched = np.isin(atoms, self._network.group(name).channels)
        alone = touched.any(axis=1) & (touched | (atoms == ALWAYS)).all(axis=1)
        return np.flatnonzero(alone if alone.any() else touched.any(axis=1))

    def _culprits(
        self, channels: Mapping[str, Sequence[int]], names: list[str], ends_early: bool = False
    ) -> list[str]:
        if not names:
            return []
        findings, _ = self._try_out({name: channels[name] for name in names})
        if not (findings.raised is not None if ends_early else findings):
            return []
        if len(names) == 1:
            return names
        middle = len(names) // 2
        halves = (names[:middle], names[middle:])
        found = [name for half in halves for name in self._culprits(channels, half, ends_early)]
        return found or names  # each half runs alone: freeze all of them


def _reason(findings: Findings) -> str:
    """Reason for freezing channels whose cut does not run, with the first line concerned."""
    raised = findings.raised
    lines = [raised.line] if raised is not None else []
    lines += [wrong.line for wrong in findings.sizes]
    lines += [wrong.line for wrong in findings.numbers]
    message = f": {raised.message}" if raised is not None else ""
    return (
        f"a size does not follow these channels at {lines[0] if lines else 'an unknown line'}"
        f"{message}"
    )


def _one_each(groups: Sequence[Group]) -> dict[str, list[int]]:
    return {group.name: [0] for group in groups if len(group) > 1}


def _every_second(groups: Sequence[Group]) -> dict[str, list[int]]:
    """One channel of every second group: reveals numbers that count two groups together.

    Sides of a grid are neighbours in the list. Of any two groups among four in a row, either this
    or ``_every_second_pair`` cuts only one.
    """
    return _one_each(groups[1::2])


def _every_second_pair(groups: Sequence[Group]) -> dict[str, list[int]]:
    return _one_each([group for at, group in enumerate(groups) if at & 2])


def different_shares(seed: int) -> TrialShares:
    """Remove a different share of each group, so that sizes do not agree by chance.

    At least two channels stay where there are more, since PyTorch takes other code paths along an
    axis of length one. Sides of a grid are neighbours in the list and lose different shares: with
    four heads of width four, a factor could otherwise follow either. Where neighbours are too small
    for that, some of them lose nothing (two heads of width two).
    """

    def shares(groups: Sequence[Group]) -> dict[str, list[int]]:
        random, again = np.random.default_rng(seed), np.random.default_rng(seed)
        recent: deque[tuple[int, int]] = deque(maxlen=NEIGHBOURS)
        turns = _Turns(seed)
        found = {}
        for group in groups:
            length = len(group)
            if length > 1:
                order = random.permutation(length)
                most = max(2, length - 1)
                count = int(random.integers(1, most))
                taken = _with_shares(recent, length)
                others = np.setdiff1d(np.arange(1, most), taken, assume_unique=True)
                if count in taken and len(others):
                    count = int(again.choice(others))
                if turns.is_left_whole(length, is_alike=not len(others)):
                    count = 0
                recent.append((count, length))
                if count:
                    found[group.name] = order[:count].tolist()
        return found

    return shares


def _with_shares(shares: Iterable[tuple[int, int]], length: int) -> list[int]:
    """How many channels of this many make one of the shares, each (count, of how many)."""
    return list({count * length // of for count, of in shares if count * length % of == 0})


class _Turns:
    """Numbers small groups of one length in a row, so that two seeds leave different ones whole.

    None is left whole with seed 0, so that the first cut shows every number that does not follow.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._length = self._turn = 0

    def next(self, length: int) -> int:
        """The turn of the next group: one more than that of the one before, of the same length."""
        self._turn = (self._turn + 1) % 4 if length == self._length else 0
        self._length = length
        return self._turn

    def is_left_whole(self, length: int, is_alike: bool) -> bool:
        """Whether the next group loses nothing.

        Args:
            length: its number of channels.
            is_alike: whether all shares it could lose are those of its neighbours.
        """
        turn = self.next(length)
        if length < _SEVERAL_SHARES:
            return self._seed > 0 and turn % 2 == 1
        return self._seed > 0 and length == _SEVERAL_SHARES and is_alike


_SEVERAL_SHARES = 4
"""Least number of channels that can lose one of several shares."""


def _without_every_third(groups: Sequence[Group]) -> dict[str, list[int]]:
    """One channel of each group but the third and fourth of small ones in a row; {} without any."""
    turns = _Turns(0)
    numbers = [(group, turns.next(len(group))) for group in groups if len(group) > 1]
    cut = [group for group, turn in numbers if len(group) >= _SEVERAL_SHARES or turn < 2]
    return _one_each(cut) if len(cut) < len(numbers) else {}


TRIALS: tuple[TrialShares, ...] = (
    different_shares(0),
    _one_each,
    different_shares(1),
    _without_every_third,
)
"""Cuts tried for every network."""
