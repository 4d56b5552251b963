"""The walk through a dense and a cut network in step: what of it is the same in both frameworks.

At every contraction whose input or sum is not what it was, the cut network's weights are fitted to
what the dense network gives there, and only then is the step done. A framework says what a value,
a step and a site are; when which of them is looked at, fitted and forgotten is decided here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from secateurs.calibration.least_squares import Refit
from secateurs.channels.arrays import Sums
from secateurs.reconstruction.layers import LayerRepair, Walked
from secateurs.reconstruction.long_kernels import KernelGeometry, SignalRows
from secateurs.reconstruction.refitting import (
    Following,
    Gathered,
    is_wide,
    refit_gathered,
    refit_signals,
)


class Piece(Protocol):
    """Some of the images in one network, and the values of the pass that are still to be read."""

    @property
    def steps(self) -> Sequence[Any]:
        """What is to be done."""

    def do(self, step: Any) -> object:
        """Do a step, and keep what it gives."""

    def forget(self, step: Any) -> None:
        """Drop the values that nothing after this step reads."""

    def measure_memory(self) -> int:
        """Bytes of the values at hand."""


class SiteMap(Protocol):
    """How a site's weights are a matrix."""

    @property
    def groups(self) -> int:
        """Of the contraction."""

    @property
    def inputs(self) -> int:
        """Of each output."""


class Site(Protocol):
    """A contraction whose weights can be refitted."""

    @property
    def map(self) -> Any:
        """Its weights as a ``SiteMap``."""

    @property
    def importance(self) -> Sums:
        """Of each output, shape (groups, outputs)."""

    @property
    def has_intercept(self) -> bool:
        """Whether there is a place for one."""

    def write_(self, matrix: Sums, intercept: Sums) -> None:
        """Set its weights, and its intercept where there is a place."""


P = TypeVar("P", bound=Piece)
S = TypeVar("S", bound=Site)


@dataclass(eq=False, slots=True)
class Pair(Generic[P]):
    """The same images in both networks.

    Attributes:
        dense: the dense network's pass over them.
        small: the cut one's.
        held: whether they are held out, to choose by.
        number: of the piece, in its half of the images.
    """

    dense: P
    small: P
    held: bool
    number: int


class LockstepWalk(ABC, Generic[P, S]):
    """Both networks, step by step, as far as there is anything to refit.

    A framework's own walk fills in what a value is.

    Attributes:
        pairs: pieces of the images, in both networks.
        sites: number of a step -> the contraction that it is.
        layers: what was refitted so far.
    """

    pairs: list[Pair[P]]
    sites: Mapping[int, S]
    layers: list[LayerRepair]

    def walk(self) -> Walked:
        """Take every step in all pieces of both networks, refitting on the way."""
        most = 0
        # What comes behind the last site is of no use: of a language model, all words' scores.
        for number in range(1 + max(self.sites, default=-1)):
            for pair in self.pairs:
                pair.dense.do(pair.dense.steps[number])
            site = self.sites.get(number)
            if site is not None and self.is_left(number) and self._is_changed(site):
                self._refit(site)
            for pair in self.pairs:
                self.do_small(pair.small, number)
            held = (p.dense.measure_memory() + p.small.measure_memory() for p in self.pairs)
            most = max(most, sum(held))
            for pair in self.pairs:
                pair.dense.forget(pair.dense.steps[number])
                pair.small.forget(pair.small.steps[number])
        return Walked(tuple(self.layers), most)

    def _is_changed(self, site: S) -> bool:
        """Whether a site reads, or is added to, anything else than in the dense network."""
        for pair in self.pairs:
            changed = self.reads_other_values(site, pair)
            if changed is None:
                return False  # not the same value: nothing is known of it
            if changed or self.is_off_at_the_sum(site, pair):
                return True
        return False

    def _refit(self, site: S) -> None:
        if not self.does_what_it_says(site):
            return
        found = self._refit_long(site) if self.is_long(site) else self._refit_rows(site)
        if found is None:
            return
        site.write_(found.weights, found.intercept)
        name = self.name_of(site)
        self.layers.append(
            LayerRepair(name, site.map.inputs, found.ridge, found.before, found.after)
        )

    def _refit_long(self, site: S) -> Refit | None:
        parts = self.gather_signals(site)
        if parts is None:
            return None
        geometry, fit, held = parts
        return refit_signals(
            fit,
            held,
            geometry,
            self.matrix_of(site),
            importance=site.importance,
            has_intercept=site.has_intercept,
        )

    def _refit_rows(self, site: S) -> Refit | None:
        wide = is_wide(site.map.groups, site.map.inputs)
        relaxes = not wide and self.relaxes(site)
        gathered = self.gather(site, sums=not wide, keeps=wide or relaxes)
        if gathered is None:
            return None
        return refit_gathered(
            gathered,
            self.matrix_of(site),
            importance=site.importance,
            has_intercept=site.has_intercept,
            following=self.following(site) if relaxes else None,
        )

    # -- what may be otherwise

    def is_left(self, number: int) -> bool:
        """Whether the cut network has this step at all."""
        return True

    def do_small(self, piece: P, number: int) -> None:
        """Take a step of the cut network."""
        piece.do(piece.steps[number])

    def does_what_it_says(self, site: S) -> bool:
        """Whether the layer gives what its matrix makes of patches."""
        return True

    def is_long(self, site: S) -> bool:
        """Whether a site is a convolution over a kernel so long that spectra take least."""
        return False

    def gather_signals(
        self, site: S
    ) -> tuple[KernelGeometry, Sequence[SignalRows], Sequence[SignalRows]] | None:
        """(geometry, pieces to fit, pieces held out) of such a site; None where nothing is told."""
        return None

    # -- what a framework says

    @abstractmethod
    def reads_other_values(self, site: S, pair: Pair[P]) -> bool | None:
        """Whether a site reads other values than in the dense network, or fewer; None is unknown.

        It is unknown where the two are of other shapes.
        """

    @abstractmethod
    def is_off_at_the_sum(self, site: S, pair: Pair[P]) -> bool:
        """Whether what a site's result is added to is not what it was, as far as it is at hand."""

    @abstractmethod
    def relaxes(self, site: S) -> bool:
        """Whether to look at what a ReLU cuts off, and the rows for it can be kept."""

    @abstractmethod
    def gather(self, site: S, *, sums: bool, keeps: bool) -> Gathered[Any] | None:
        """What the images say at a site; None where that cannot be told.

        Args:
            site: the contraction.
            sums: whether to sum up products.
            keeps: whether to keep the rows as they are.
        """

    @abstractmethod
    def matrix_of(self, site: S) -> Sums:
        """Its present weights, shape (groups, inputs, outputs)."""

    @abstractmethod
    def name_of(self, site: S) -> str:
        """The name of its weight."""

    @abstractmethod
    def following(self, site: S) -> Following:
        """What becomes of its outputs up to a ReLU."""
