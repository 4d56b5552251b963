"""Costs of a network at any widths of its groups, without choosing channels.

An axis's length is a sum over groups of what each of their channels covers, or a product in a grid
(heads by positions). So a cost is a polynomial in the widths, and thousands of choices of widths
can be evaluated at once. ``Network.cost_of`` is exact for any cut and looks at every unit; this is
exact where every channel of a group covers as much of an axis as the others, which is nearly always
the case, and very close elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.arrays import Floats
from secateurs.channels.blocks import BlockCut
from secateurs.channels.cost import Product
from secateurs.channels.equations import ALWAYS, Ids
from secateurs.channels.file_size import USUAL, FileKind
from secateurs.channels.network import Group, Network, Tensor
from secateurs.measurement.latency_model import LatencyModel, WidthTerms

UNITS = ("channels", "params", "macs", "bytes")
MILLISECONDS = "milliseconds"
"""A further unit, available with a latency model."""

_UNSEEN = -2
"""Placeholder for the block of an atom that no tensor has."""

Terms = tuple[tuple[float, tuple[int, ...]], ...]
"""Terms to be summed: (number of units, groups whose kept shares multiply it)."""


@dataclass(frozen=True, eq=False, slots=True)
class _Lengths:
    """Axis lengths as sums of products of the groups' kept shares; the last length is 1.

    The length of a concatenation is a sum over all groups in it, so linear terms are one matrix
    product for all lengths; products of shares (grids) are added term by term.
    """

    fixed: Floats
    linear: Floats
    products: tuple[tuple[int, float, tuple[int, ...]], ...]

    @classmethod
    def of(cls, lengths: Sequence[Terms], groups: int) -> _Lengths:
        """Collect the terms of each length."""
        fixed, linear = np.zeros(len(lengths) + 1), np.zeros((groups, len(lengths) + 1))
        fixed[-1] = 1
        products = []
        for place, terms in enumerate(lengths):
            for count, of in terms:
                if not of:
                    fixed[place] += count
                elif len(of) == 1:
                    linear[of[0], place] += count
                else:
                    products.append((place, count, of))
        return cls(fixed, linear, tuple(products))

    def sizes(self, shares: Floats) -> Floats:
        """Map ``shares`` of shape (choices, groups) to lengths of shape (choices, lengths + 1)."""
        sizes: Floats = shares @ self.linear + self.fixed
        for place, count, of in self.products:
            sizes[:, place] += count * shares[:, list(of)].prod(axis=1)
        return sizes


@dataclass(frozen=True, eq=False, slots=True)
class _Polynomial:
    """A sum of products of axis lengths.

    Attributes:
        lengths: axis lengths.
        constants: constant of each product, shape (products,).
        factors: indices of the lengths in each product, shape (products, most factors).
    """

    lengths: _Lengths
    constants: Floats
    factors: Ids

    def products(self, sizes: Floats) -> Floats:
        """Each product by itself, shape (choices, products)."""
        found: Floats = sizes[:, self.factors].prod(axis=2) * self.constants
        return found

    def values(self, shares: Floats) -> Floats:
        """Sum over the products; ``shares`` (choices, groups) -> (choices,)."""
        total: Floats = self.lengths.sizes(shares)[:, self.factors].prod(axis=2) @ self.constants
        return total


@dataclass(frozen=True, eq=False, slots=True)
class _Times:
    """Milliseconds by a latency model as a function of widths.

    Attributes:
        terms: the network's terms in the latency model.
        model: the latency model.
        scale: correction that makes the dense network's time exact.
        macs: multiply-accumulates of each layer.
        outputs: index of the length of each layer's output axis, shape (layers,).
        inputs: index of the length of each layer's input axis, shape (layers,).
        blocks: index of the width of the block that each layer is removed with, shape (layers,).
    """

    terms: WidthTerms
    model: LatencyModel
    scale: float
    macs: _Polynomial
    outputs: Ids
    inputs: Ids
    blocks: Ids

    def values(self, shares: Floats) -> Floats:
        """Milliseconds; ``shares`` (choices, groups) -> (choices,)."""
        sizes = self.macs.lengths.sizes(shares)
        out, into = np.rint(sizes[:, self.outputs]), np.rint(sizes[:, self.inputs])
        macs, there = self.macs.products(sizes), sizes[:, self.blocks]
        terms = self.terms.sum(out, into, macs, there)
        return self.scale * self.model.milliseconds(terms, macs * there)


class WidthCosts:
    """Costs of a network as functions of its groups' widths.

    Args:
        network: as traced.
        groups: groups whose widths may change; others stay whole.
        kind: kind of file in which bytes are counted.
        blocks: residual blocks that may be removed whole, each a further width (1 or 0) after the
            groups'.
        latency_model: model that adds ``MILLISECONDS`` as a cost; None for none.
    """

    def __init__(
        self,
        network: Network,
        groups: Sequence[Group],
        kind: FileKind = USUAL,
        blocks: Sequence[BlockCut] = (),
        latency_model: LatencyModel | None = None,
    ) -> None:
        self.full = np.array([*(len(group) for group in groups), *[1] * len(blocks)], np.float64)
        self._blocks, self._first_block = blocks, len(groups)
        self._owner = np.full(network.solution.count, -1)
        for number, group in enumerate(groups):
            self._owner[group.channels] = number
        self._atoms = network.solution.atoms
        tensors = list(network.tensors.values())
        widths = network.widths
        rows = np.concatenate([self._pad_rows(widths.lone_channels), widths.grid_cells])
        places = self._places_of(rows, tensors)
        self._costs: dict[str, _Polynomial | _Times] = {
            # One product of one factor: the kept positions of all widths.
            "channels": _Polynomial(
                _Lengths.of([places], len(self.full)), np.ones(1), np.zeros((1, 1), np.int64)
            ),
            "params": self._of(
                (t.size, self._block_of(t.name, *t.aliases)) for t in tensors if t.is_parameter
            ),
            "macs": self._of((one.macs, self._block_of(one.layer)) for one in network.contractions),
            "bytes": self._of(
                (product, self._block_of(tensor.name, *tensor.aliases))
                for tensor, product in zip(tensors, kind.products(network), strict=True)
            ),
        }
        if latency_model is not None:
            self._costs[MILLISECONDS] = self._times_by(latency_model, network)

    def costs(
        self, widths: NDArray[np.floating | np.integer], units: Iterable[str]
    ) -> Mapping[str, Floats]:
        """Unit -> cost of each choice; ``widths`` has shape (choices, groups)."""
        shares = widths / self.full
        found: dict[str, Floats] = {}
        for unit in units:
            found[unit] = self._costs[unit].values(shares)
        return found

    def _block_of(self, *names: str) -> int:
        """Index of the width of the block that all of these names go with; -1 for none."""
        for number, block in enumerate(self._blocks):
            if all(block.takes_with_it(name) for name in names):
                return self._first_block + number
        return -1

    def _blocks_around(self, tensors: Sequence[Tensor]) -> Ids:
        """For each atom, the width of the block that it lies in alone, else -1."""
        found = np.full(len(self._owner), _UNSEEN)
        for tensor in tensors:
            block = self._block_of(tensor.name, *tensor.aliases)
            for units in tensor.axes.values():
                atoms = np.unique(self._atoms[units])
                agree = (found[atoms] == _UNSEEN) | (found[atoms] == block)
                found[atoms] = np.where(agree, block, -1)
        return found

    def _of(self, products: Iterable[tuple[Product, int]]) -> _Polynomial:
        """A polynomial of products, each with the width of its block, or -1."""
        axes = _Axes(self._terms)
        return axes.polynomial(products, len(self.full))

    def _times_by(self, model: LatencyModel, network: Network) -> _Times:
        """Milliseconds as by the model's ``predictor``, scaled to the dense network's time."""
        terms, axes = WidthTerms(network), _Axes(self._terms)
        layers = terms.layers
        owners = [self._block_of(layer.name) for layer in layers]
        outputs = [axes.place(layer.outputs, layer.lengths[0]) for layer in layers]
        inputs = [axes.place(layer.inputs, layer.lengths[1]) for layer in layers]
        blocks = [axes.place_of_width(owner) for owner in owners]
        products = [Product(layer.constant, layer.axes) for layer in layers]
        macs = axes.polynomial(zip(products, owners, strict=True), len(self.full))
        places = (np.array(of, np.int64) for of in (outputs, inputs, blocks))
        found = _Times(terms, model, 1.0, macs, *places)
        scale = model.dense_ms / found.values(np.ones((1, len(self.full))))[0]
        return replace(found, scale=float(scale))

    def _terms(self, axis: Ids) -> Terms:
        """Terms of an axis's length, by the groups that its units need."""
        return self._terms_of(self._atoms[axis])

    def _places_of(self, rows: Ids, tensors: Sequence[Tensor]) -> Terms:
        """Terms of the positions along widths, by the groups and block that each needs."""
        owners = self._owners_of(rows)
        if self._blocks:
            inside = np.where(rows == ALWAYS, _UNSEEN, self._blocks_around(tensors)[rows])
            block = inside.max(axis=1)
            is_common = ((inside == block[:, None]) | (inside == _UNSEEN)).all(axis=1)
            owners = np.column_stack([owners, np.where(is_common & (block >= 0), block, -1)])
        return _count_alike(owners)

    def _pad_rows(self, channels: Ids) -> Ids:
        """Rows of atoms that hold one atom each, padded."""
        rows = np.full((len(channels), self._atoms.shape[1]), ALWAYS)
        rows[:, 0] = channels
        return rows

    def _terms_of(self, atoms: Ids) -> Terms:
        """Terms by the groups that own each row of needed atoms."""
        return _count_alike(self._owners_of(atoms))

    def _owners_of(self, atoms: Ids) -> Ids:
        """Index of the group that each atom belongs to; -1 if the atom always stays."""
        found: Ids = np.where(atoms == ALWAYS, -1, self._owner[atoms])
        return found


class _Axes:
    """A table of axis lengths for products, without duplicates.

    Args:
        terms_of: function from an axis's units to its terms.
    """

    def __init__(self, terms_of: Callable[[Ids], Terms]) -> None:
        self._terms_of = terms_of
        self._lengths: list[Terms] = []
        self._places: dict[int, int] = {}

    def place(self, axis: Ids | None, length: int = 1) -> int:
        """Index of an axis's length; None is a fixed length."""
        if axis is None:
            return self._add(((float(length), ()),))
        if id(axis) not in self._places:
            self._places[id(axis)] = self._add(self._terms_of(axis))
        return self._places[id(axis)]

    def place_of_width(self, number: int) -> int:
        """Index of the length that is this width itself; for -1, of the constant one."""
        return self._add(((1.0, (number,) if number >= 0 else ()),))

    def polynomial(self, products: Iterable[tuple[Product, int]], groups: int) -> _Polynomial:
        """A polynomial of products, each with the width of its block, or -1."""
        rows: list[tuple[int, list[int]]] = []
        for product, block in products:
            places = [self.place_of_width(block)] if block >= 0 else []
            rows.append((product.constant, places + [self.place(axis) for axis in product.axes]))
        most = max((len(places) for _, places in rows), default=0)
        one = len(self._lengths)
        factors = np.full((len(rows), most), one, np.int64)
        for row, (_, places) in enumerate(rows):
            factors[row, : len(places)] = places
        constants = np.array([constant for constant, _ in rows], np.float64)
        return _Polynomial(_Lengths.of(self._lengths, groups), constants, factors)

    def _add(self, terms: Terms) -> int:
        self._lengths.append(terms)
        return len(self._lengths) - 1


def _count_alike(owners: Ids) -> Terms:
    kinds, counts = np.unique(np.sort(owners, axis=1), axis=0, return_counts=True)
    return tuple(
        (float(count), tuple(int(owner) for owner in kind if owner >= 0))
        for kind, count in zip(kinds, counts, strict=True)
    )
