"""Sizes hard-coded in a forward pass: followed where that can be done, else frozen with the line.

A model's code may hold sizes as plain integers: ``self.num_heads`` in a ``view``, ``C // heads``, a
literal. No operation says where its numbers came from, so they are found by trying: a cut is made
on shapes alone (``dry_run.py``), what goes wrong is answered (``repairs.py``), and the next cut
shows whether the answer was right. An answer is one of three:

1. *followed*: an attribute of a module whose code was running has the dense value; it is made to
   follow the channels it counts (``bindings.py``);
2. *tied*: the wrong length is the number of some other channels; the two are made to go together,
   so that the numbers agree again (a residual stream and the heads times positions that add to it);
3. *frozen*: nothing explains it, so exactly the channels concerned stay, and the line is told.

A factor computed from a size (an attention's scale) is put right in the weights before it
(``factors.py``).

Why this ends: a place is given each of its candidates once, a tie that was refuted is not tried
again, and what is frozen stays so; a limit on the rounds stands behind that all the same. Why it is
safe: nothing here makes a cut right. It only makes cuts possible, and each one that is made is
proven against the dense model afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction

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

MOST_SWEEPS = 3

NEIGHBOURS = 3
"""Groups before one, of which it loses another share where it can."""

UNRESOLVED = "a size hard-coded in its forward() could not be resolved"


class HardcodedSizes:
    """Tries cuts out and answers what goes wrong, until they run as foretold."""

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
        """The network, with what the model's code keeps from being cut frozen."""
        if not all(self._settle(shares) for shares in TRIALS):
            return self._network  # nothing to be learnt; the proof will have to do
        for _ in range(MOST_SWEEPS):
            before = self._network
            if self._counts_several_together():
                for shares in (_seconds, _pairs):
                    self._settle(shares)
            if self._network is before:
                break
        return self._network

    def _counts_several_together(self) -> bool:
        """Whether a number counts channels of several groups, or some that stay: one may not do."""
        atoms = self._network.solution.atoms
        counted = [units for size in self._bindings.sizes() for units in size.value.axes]
        counted = [units for units in counted if units.max(initial=0) < len(atoms)]
        group_of = np.full(self._network.solution.count, -1)
        for number, group in enumerate(self._network.groups):
            group_of[group.channels] = number
        return any(len(set(group_of[atoms[units].max(axis=1)])) > 1 for units in counted)

    def _settle(self, shares: TrialShares) -> bool:
        """Try one kind of cut until it runs; False where no dry run of a cut tells."""
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
        """What follows from all that is known; guesses that contradict the rest are taken back."""
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
        return (self._rehearse(cut, stays) if cut else Findings()), stays

    def _second_look(self) -> tuple[Findings, Stays] | None:
        """The same network under another cut."""
        return self._try_out(different_shares(2)(self._network.groups))

    def _runs_uncut(self) -> bool:
        """Whether the dense model runs without data; if not, no dry run of a cut tells."""
        if self._is_runnable is None:
            found = self._rehearse(self._network.cut({}), self._all_stay())
            self._is_runnable = found.raised is None
        return self._is_runnable

    def _all_stay(self) -> Stays:
        return np.ones(self._units, dtype=np.bool_)

    def _rehearse(self, cut: Cut, stays: Stays) -> Findings:
        return self._run(cut_copy(self._model, cut, without_data=True), stays)

    def _run(self, small: nn.Module, stays: Stays) -> Findings:
        found = Findings()
        for number, forward in enumerate(self._passes):
            new = DryRun(small, forward, number, stays).rehearse()
            found.sizes += new.sizes
            found.numbers += [n for n in new.numbers if not self._factors.is_put_right(n, stays)]
            found.raised = found.raised or new.raised
        return found

    def _probe(self, attributes: Collection[Attribute], doubled: bool) -> Collection[Key] | None:
        """The places whose length is another where the dense model has other numbers there."""
        changed = cut_copy(self._model, self._network.cut({}), without_data=True)
        for attribute in attributes:
            present = read(changed, attribute)
            if isinstance(present, int):
                write_(changed, attribute, 2 * present if doubled else present + 1)
        found = self._run(changed, self._all_stay())
        return None if found.raised is not None else {wrong.key for wrong in found.sizes}

    # -- the last resort

    def _freeze_culprits(self, shares: TrialShares, reason: str, ends_early: bool = False) -> None:
        """Freeze the groups whose cut does not run, found by halving.

        Where the forward pass does not come to its end those alone that keep it from that: what
        else is wrong with the others can be answered when these are gone.
        """
        channels = shares(self._network.groups)
        names = list(channels)
        for name in (ends_early and self._culprits(channels, names, True)) or (
            self._culprits(channels, names) or names
        ):
            self._tracer.equations.freeze(self._units_of(name), reason)

    def _units_of(self, name: str) -> Ids:
        """What goes with a group alone: of a grid's cells the other side may still go."""
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
        return found or names  # they only block each other together: none of them may go


def _reason(findings: Findings) -> str:
    """Why channels that do not run are frozen, by the first line that says so."""
    raised = findings.raised
    lines = [raised.line] if raised is not None else []
    lines += [wrong.line for wrong in findings.sizes]
    lines += [wrong.line for wrong in findings.numbers]
    message = f": {raised.message}" if raised is not None else ""
    return f"a size does not follow at {lines[0] if lines else 'an unknown line'}{message}"


def _one_each(groups: Sequence[Group]) -> dict[str, list[int]]:
    return {group.name: [0] for group in groups if len(group) > 1}


def _seconds(groups: Sequence[Group]) -> dict[str, list[int]]:
    """Every second group: of two that one number counts together, one may not go alone.

    Sides of a grid are neighbours; of any two among four in a row, one goes here or in ``_pairs``.
    """
    return _one_each(groups[1::2])


def _pairs(groups: Sequence[Group]) -> dict[str, list[int]]:
    return _one_each([group for at, group in enumerate(groups) if at & 2])


def different_shares(seed: int) -> TrialShares:
    """A share of each group, as different as can be, so that sizes do not agree by chance.

    Two stay where there are more: PyTorch takes other paths along an axis of length one. Sides of a
    grid are neighbours in the list, and lose other shares: of four heads four wide a factor would
    else follow either.
    """

    def shares(groups: Sequence[Group]) -> dict[str, list[int]]:
        random, again = np.random.default_rng(seed), np.random.default_rng(seed)
        recent: deque[Fraction] = deque(maxlen=NEIGHBOURS)
        found = {}
        for group in groups:
            if len(group) > 1:
                order = random.permutation(len(group))
                most = max(2, len(group) - 1)
                count = int(random.integers(1, most))
                others = [c for c in range(1, most) if Fraction(c, len(group)) not in recent]
                if count not in others and others:
                    count = int(again.choice(others))
                recent.append(Fraction(count, len(group)))
                found[group.name] = order[:count].tolist()
        return found

    return shares


TRIALS: tuple[TrialShares, ...] = (different_shares(0), _one_each, different_shares(1))
"""Cuts to try, whatever the network."""
