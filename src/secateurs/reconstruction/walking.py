"""The walk through a dense and a cut network in step, as far as both frameworks share it.

At every contraction whose input, or whose sum afterwards, differs from the dense network's, the cut
network's weights are fitted to the dense network's outputs there; only then is the step run. A
framework defines what values, steps and sites are; this module decides when they are compared,
fitted and dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from secateurs.calibration.least_squares import Refit
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.arrays import Sums
from secateurs.reconstruction.layers import LayerRepair, Walked
from secateurs.reconstruction.long_kernels import KernelGeometry, SignalRows
from secateurs.reconstruction.refitting import (
    Following,
    Gathered,
    is_wide,
    join_parts,
    refit_gathered,
    refit_signals,
)


class Piece(Protocol):
    """Some of the images in one network, and the values of the pass that are still needed."""

    @property
    def steps(self) -> Sequence[Any]:
        """Steps of the forward pass."""

    def do(self, step: Any) -> object:
        """Run a step, and keep its outputs."""

    def forget(self, step: Any) -> None:
        """Drop the values that no later step reads."""

    def measure_memory(self) -> int:
        """Bytes of the values currently held."""


class SiteMap(Protocol):
    """Shape of a site's weights as a matrix."""

    @property
    def groups(self) -> int:
        """Number of groups of the contraction."""

    @property
    def inputs(self) -> int:
        """Number of inputs of each output."""


class Site(Protocol):
    """A contraction whose weights can be refitted."""

    @property
    def map(self) -> Any:
        """Its weights as a ``SiteMap``."""

    @property
    def importance(self) -> Sums:
        """Weight of each output in the error, shape (groups, outputs)."""

    @property
    def has_intercept(self) -> bool:
        """Whether there is a bias."""

    def write_(self, matrix: Sums, intercept: Sums) -> None:
        """Set its weights, and its bias if there is one."""


P = TypeVar("P", bound=Piece)
S = TypeVar("S", bound=Site)


@dataclass(eq=False, slots=True)
class Pair(Generic[P]):
    """The same images in both networks, as a pair of passes.

    Attributes:
        dense: the dense network's pass.
        small: the cut network's pass.
        held: whether the images are held out.
        number: index of the piece within its part of the images.
    """

    dense: P
    small: P
    held: bool
    number: int


class LockstepWalk(ABC, Generic[P, S]):
    """A step-by-step pass through both networks, as far as there is anything to refit.

    Each framework's own walk implements the abstract methods.

    Attributes:
        pairs: pieces of the images, in both networks.
        sites: index of a step -> the contraction that it runs.
        layers: layers refitted so far.
        peers: processes that walk together, each with its own images.
    """

    peers: Peers = ALONE
    pairs: list[Pair[P]]
    sites: Mapping[int, S]
    layers: list[LayerRepair]

    def walk(self) -> Walked:
        """Run every step for all pieces of both networks, refitting on the way."""
        most = 0
        # Steps after the last site need not run: in a language model, the scores of all words.
        for number in range(1 + max(self.sites, default=-1)):
            for pair in self.pairs:
                pair.dense.do(pair.dense.steps[number])
            site = self.sites.get(number)
            if site is not None and self.is_left(number) and self._is_changed_anywhere(site):
                self._refit(site)
            for pair in self.pairs:
                self.do_small(pair.small, number)
            held = (p.dense.measure_memory() + p.small.measure_memory() for p in self.pairs)
            most = max(most, sum(held))
            for pair in self.pairs:
                pair.dense.forget(pair.dense.steps[number])
                pair.small.forget(pair.small.steps[number])
        return Walked(tuple(self.layers), most)

    def _is_changed_anywhere(self, site: S) -> bool:
        """``_is_changed`` for the images of any process."""
        return any(self.peers.gather(self._is_changed(site)))

    def _is_changed(self, site: S) -> bool:
        """Whether a site's input, or what is added to its output, differs from the dense one's."""
        for pair in self.pairs:
            changed = self.reads_other_values(site, pair)
            if changed is None:
                return False  # not comparable: nothing is known about it
            if changed or self.is_off_at_the_sum(site, pair):
                return True
        return False

    def _refit(self, site: S) -> None:
        if not all(self.peers.gather(self.does_what_it_says(site))):
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
        geometry, *mine = parts
        fit, held = (join_parts(self.peers.gather_in_main(signals)) for signals in mine)
        return self._refit_in_main(
            lambda: refit_signals(
                fit,
                held,
                geometry,
                self.matrix_of(site),
                importance=site.importance,
                has_intercept=site.has_intercept,
            )
        )

    def _refit_rows(self, site: S) -> Refit | None:
        wide = is_wide(site.map.groups, site.map.inputs)
        relaxes = not wide and self.relaxes(site)
        gathered = self.gather(site, sums=not wide, keeps=wide or relaxes)
        if gathered is None:
            return None
        together = gathered.total_over(self.peers)
        return self._refit_in_main(
            lambda: refit_gathered(
                together,
                self.matrix_of(site),
                importance=site.importance,
                has_intercept=site.has_intercept,
                following=self.following(site) if relaxes else None,
            )
        )

    def _refit_in_main(self, refit: Callable[[], Refit | None]) -> Refit | None:
        """Solve once, so that all processes have the same weights to the last bit."""

        def solve() -> Refit | None:
            found = refit()
            return None if found is None else replace(found, solver=None)

        return self.peers.from_main(solve)

    # -- hooks with defaults

    def is_left(self, number: int) -> bool:
        """Whether the cut network has this step at all."""
        return True

    def do_small(self, piece: P, number: int) -> None:
        """Run a step of the cut network."""
        piece.do(piece.steps[number])

    def does_what_it_says(self, site: S) -> bool:
        """Whether the layer computes exactly its matrix times patches."""
        return True

    def is_long(self, site: S) -> bool:
        """Whether a site is a convolution with a kernel so long that spectra are cheapest."""
        return False

    def gather_signals(
        self, site: S
    ) -> tuple[KernelGeometry, Sequence[SignalRows], Sequence[SignalRows]] | None:
        """(geometry, pieces to fit, held-out pieces) of such a site; None if unavailable."""
        return None

    # -- what a framework implements

    @abstractmethod
    def reads_other_values(self, site: S, pair: Pair[P]) -> bool | None:
        """Whether a site reads other or fewer values than in the dense network; None if unknown.

        It is unknown where the shapes differ otherwise.
        """

    @abstractmethod
    def is_off_at_the_sum(self, site: S, pair: Pair[P]) -> bool:
        """Whether what a site's output is added to differs, as far as it is computed already."""

    @abstractmethod
    def relaxes(self, site: S) -> bool:
        """Whether to take a following ReLU into account, and rows for that can be stored."""

    @abstractmethod
    def gather(self, site: S, *, sums: bool, keeps: bool) -> Gathered[Any] | None:
        """Collect data at a site; None if that is impossible.

        Args:
            site: the contraction.
            sums: whether to sum products.
            keeps: whether to store the rows themselves.
        """

    @abstractmethod
    def matrix_of(self, site: S) -> Sums:
        """Its present weights, shape (groups, inputs, outputs)."""

    @abstractmethod
    def name_of(self, site: S) -> str:
        """Name of its weight."""

    @abstractmethod
    def following(self, site: S) -> Following:
        """Transformation of its outputs up to a ReLU."""
