"""Which channels a cut model kept, from its report or from its weights.

A tool that cuts by slicing leaves weights that are slices of the dense ones. Along an axis whose
other axes are known, each slice of the small tensor is looked up among the dense one's. What is
found for one axis holds for every axis that shares its channels, so knowledge spreads from vectors
(biases, batch normalisation) and first layers to all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.equations import ALWAYS, Ids
from secateurs.channels.network import Network, Tensor
from secateurs.errors import CutError

NamedArrays = Mapping[str, NDArray[Any]]


def match_channels(network: Network, small: NamedArrays, cut: Cut) -> NDArray[np.bool_]:
    """Find which atoms of a dense network a cut model still has.

    Args:
        network: network of the dense model.
        small: tensors of the cut model, by name.
        cut: the cut in its report; empty if there is none.

    Returns:
        Mask of the kept atoms, shape (atoms,); atoms that nothing removed are true.

    Raises:
        CutError: the models have different tensors, or it cannot be determined which were kept.
    """
    _check_names(network, small)
    axes = _from_cut(network, small, cut) if cut else None
    if axes is None:
        axes = _Search(network, small).search()
    alive = _atoms_alive(network, axes)
    _check(network, small, alive)
    return alive


def _check_names(network: Network, small: NamedArrays) -> None:
    missing = [name for name in network.tensors if name not in small]
    if missing:
        raise CutError(
            f"repair: expected a small model with the dense one's tensors; {missing[0]!r} is "
            "missing in it. Pass the dense model that it was cut from."
        )
    for name, tensor in network.tensors.items():
        shape = small[name].shape
        wider = any(a > b for a, b in zip(shape, tensor.shape, strict=False))
        if len(shape) != len(tensor.shape) or wider:
            raise CutError(
                f"repair: {name}: expected no more than the dense model's {tensor.shape}; received "
                f"{shape}. Pass the dense model that the small one was cut from."
            )


def _from_cut(network: Network, small: NamedArrays, cut: Cut) -> dict[tuple[str, int], Ids] | None:
    """Kept indices of each axis by the report; None if that is of another dense model."""
    axes = {}
    for name, tensor in network.tensors.items():
        known = cut.tensors.get(name)
        for axis, length in enumerate(tensor.shape):
            kept = np.arange(length) if known is None else known.list_kept(axis)
            if len(kept) != small[name].shape[axis] or (known and known.shape != tensor.shape):
                return None
            axes[name, axis] = kept
    return axes


@dataclass(eq=False)
class _Search:
    """Search for the indices that each axis kept."""

    network: Network
    small: NamedArrays
    known: dict[bytes, Ids] = field(default_factory=dict)
    _candidates: dict[bytes, NDArray[np.bool_]] = field(default_factory=dict)

    def search(self) -> dict[tuple[str, int], Ids]:
        """(tensor, axis) -> kept indices."""
        pending = [place for place in self._places if self._is_shorter(*place)]
        open_ends = [place for place in pending if place[1] not in self._tensor(place[0]).axes]
        if open_ends:
            self._give_up(open_ends[0])
        while pending:
            progress = [place for place in pending if self._look(*place)]
            pending = [p for p in pending if self._key(*p) not in self.known]
            if pending and not progress:
                self._give_up(pending[0])
        return {place: self._list_kept(*place) for place in self._places}

    @property
    def _places(self) -> list[tuple[str, int]]:
        """Every axis of every tensor."""
        tensors = self.network.tensors.items()
        return [(name, axis) for name, tensor in tensors for axis in range(len(tensor.shape))]

    def _is_shorter(self, name: str, axis: int) -> bool:
        return bool(self.small[name].shape[axis] != self._tensor(name).shape[axis])

    def _tensor(self, name: str) -> Tensor:
        return self.network.tensors[name]

    def _key(self, name: str, axis: int) -> bytes:
        return self._tensor(name).axes[axis].tobytes()

    def _list_kept(self, name: str, axis: int) -> Ids:
        whole = np.arange(self._tensor(name).shape[axis])
        if self.small[name].shape[axis] == len(whole):
            return whole
        return self.known[self._key(name, axis)]

    def _look(self, name: str, axis: int) -> bool:
        """Compare slices along an axis; returns whether the axis is known now."""
        key = self._key(name, axis)
        others = [a for a in range(len(self._tensor(name).shape)) if a != axis]
        for other in others:
            same = self.small[name].shape[other] == self._tensor(name).shape[other]
            if not same and self._key(name, other) not in self.known:
                return False
        if key in self.known:
            return True
        dense = np.asarray(self.network.source.array(name), np.float64)
        for other in others:
            dense = dense.take(self._list_kept(name, other), axis=other)
        ours = np.moveaxis(np.asarray(self.small[name], np.float64), axis, 0)
        theirs = np.moveaxis(dense, axis, 0)
        alike = _alike(ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1))
        if key in self._candidates:
            alike &= self._candidates[key]
        self._candidates[key] = alike
        chosen = _rising(alike)
        if chosen is None:
            return False
        # Equal slices leave a choice, which another tensor with these channels may settle.
        if (alike.sum(axis=1) > 1).any() and not self._is_last(name, axis):
            return False
        self.known[key] = chosen
        return True

    def _is_last(self, name: str, axis: int) -> bool:
        """Whether this is the last tensor with these channels."""
        key = self._key(name, axis)
        places = [
            (n, a)
            for n, tensor in self.network.tensors.items()
            for a, units in tensor.axes.items()
            if units.tobytes() == key
        ]
        return places[-1] == (name, axis)

    def _give_up(self, place: tuple[str, int]) -> None:
        name, axis = place
        raise CutError(
            f"repair: {name}: expected slices of the dense model's weights along axis {axis}, to "
            f"tell which of {self._tensor(name).shape[axis]} channels the small model's "
            f"{self.small[name].shape[axis]} are; there are none. Repair a cut model before it is "
            "trained, or make the cut with secateurs, which records what was removed."
        )


def _alike(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows are equal, shape (ours, theirs)."""
    places: dict[bytes, list[int]] = {}
    for place, row in enumerate(theirs + 0.0):
        places.setdefault(row.tobytes(), []).append(place)
    alike = np.zeros((len(ours), len(theirs)), bool)
    for number, row in enumerate(ours + 0.0):
        alike[number, places.get(row.tobytes(), [])] = True
    return alike


def _rising(alike: NDArray[np.bool_]) -> Ids | None:
    """The first ascending choice of one column for each row; None if there is none."""
    chosen, last = [], -1
    for row in alike:
        free = np.flatnonzero(row[last + 1 :])
        if not len(free):
            return None
        last += 1 + int(free[0])
        chosen.append(last)
    return np.array(chosen, np.int64)


def _atoms_alive(network: Network, axes: Mapping[tuple[str, int], Ids]) -> NDArray[np.bool_]:
    """Derive the mask of kept atoms: an atom is removed if every index that needs it is."""
    needed = np.zeros(network.solution.count, bool)
    left = np.zeros(network.solution.count, bool)
    for name, tensor in network.tensors.items():
        for axis, units in tensor.axes.items():
            atoms = network.solution.atoms[units]
            needed[atoms] = True
            left[atoms[axes[name, axis]]] = True
    alive: NDArray[np.bool_] = left | ~needed
    alive[ALWAYS] = True
    return alive


def _check(network: Network, small: NamedArrays, alive: NDArray[np.bool_]) -> None:
    stays = network.solution.mark_kept(alive)
    for name, tensor in network.tensors.items():
        for axis, units in tensor.axes.items():
            if int(stays[units].sum()) != small[name].shape[axis]:
                raise CutError(
                    f"repair: {name}: expected a cut that takes whole channels wherever they are; "
                    f"axis {axis} kept {small[name].shape[axis]} of {len(units)}, and the others "
                    f"that share its channels {int(stays[units].sum())}. Pass the dense model that "
                    "the small one was cut from."
                )
