"""What a network costs at any widths of its groups, without naming the channels.

An axis's length is a sum over groups of what each of their channels covers; of a grid (heads by
positions) a product. So a cost is a polynomial in the widths, and thousands of choices of widths
are priced at once. ``Network.cost_of`` is exact for any cut and looks at every unit; this is exact
where every channel of a group covers as much of an axis as the others, which is nearly always, and
very close elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.arrays import Floats
from secateurs.channels.blocks import BlockCut
from secateurs.channels.cost import Product
from secateurs.channels.equations import ALWAYS, Ids
from secateurs.channels.file_size import USUAL, FileKind
from secateurs.channels.network import Group, Network, Tensor

UNITS = ("channels", "params", "macs", "bytes")

_UNSEEN = -2
"""In the place of a block: no tensor has this atom."""

Terms = tuple[tuple[float, tuple[int, ...]], ...]
"""(units, the groups whose shares of them stay, multiplied), to be summed."""


@dataclass(frozen=True, eq=False, slots=True)
class _Polynomial:
    """Products of axis lengths, each a sum of products of the groups' shares that stay.

    A concatenation's length is a sum over all groups in it, so what is linear is one matrix product
    for all lengths; what multiplies shares (a grid) is added term by term.
    """

    constants: Floats
    factors: Ids
    fixed: Floats
    linear: Floats
    products: tuple[tuple[int, float, tuple[int, ...]], ...]

    @classmethod
    def of(
        cls, constants: Floats, factors: Ids, lengths: Sequence[Terms], groups: int
    ) -> _Polynomial:
        """From each length's terms; ``factors`` count the lengths, and one more that is 1."""
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
        return cls(constants, factors, fixed, linear, tuple(products))

    def values(self, shares: Floats) -> Floats:
        """Summed over the products; ``shares`` (choices, groups) -> (choices,)."""
        sizes = shares @ self.linear + self.fixed
        for place, count, of in self.products:
            sizes[:, place] += count * shares[:, list(of)].prod(axis=1)
        total: Floats = sizes[:, self.factors].prod(axis=2) @ self.constants
        return total


class WidthCosts:
    """The costs of a network by the widths of its groups.

    Args:
        network: as traced.
        groups: those whose widths may change; the others stay whole.
        kind: of the file that bytes are counted in.
        blocks: residual blocks that may go whole, each one more width (1 or 0) behind the groups'.
    """

    def __init__(
        self,
        network: Network,
        groups: Sequence[Group],
        kind: FileKind = USUAL,
        blocks: Sequence[BlockCut] = (),
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
        self._polynomials = {
            # One product of one factor: the places of all widths that stay.
            "channels": _Polynomial.of(
                np.ones(1), np.zeros((1, 1), np.int64), [places], len(self.full)
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

    def costs(
        self, widths: NDArray[np.floating | np.integer], units: Iterable[str]
    ) -> Mapping[str, Floats]:
        """Unit -> what each choice costs; ``widths`` has shape (choices, groups)."""
        shares = widths / self.full
        found: dict[str, Floats] = {}
        for unit in units:
            found[unit] = self._polynomials[unit].values(shares)
        return found

    def _block_of(self, *names: str) -> int:
        """Which width stands for the block that all of these names go with; -1 for none."""
        for number, block in enumerate(self._blocks):
            if all(block.takes_with_it(name) for name in names):
                return self._first_block + number
        return -1

    def _blocks_around(self, tensors: Sequence[Tensor]) -> Ids:
        """For each atom the width of the block that it lies in alone, else -1."""
        found = np.full(len(self._owner), _UNSEEN)
        for tensor in tensors:
            block = self._block_of(tensor.name, *tensor.aliases)
            for units in tensor.axes.values():
                atoms = np.unique(self._atoms[units])
                agree = (found[atoms] == _UNSEEN) | (found[atoms] == block)
                found[atoms] = np.where(agree, block, -1)
        return found

    def _of(self, products: Iterable[tuple[Product, int]]) -> _Polynomial:
        """Of products, each with the width of the block that it goes with, or -1."""
        numbers: dict[int, int] = {}
        lengths: list[Terms] = []
        rows: list[tuple[int, list[int]]] = []
        for product, block in products:
            places = []
            if block >= 0:
                places.append(len(lengths))
                lengths.append(((1.0, (block,)),))
            for axis in product.axes:
                if id(axis) not in numbers:
                    numbers[id(axis)] = len(lengths)
                    lengths.append(self._terms(axis))
                places.append(numbers[id(axis)])
            rows.append((product.constant, places))
        most = max((len(places) for _, places in rows), default=0)
        factors = np.full((len(rows), most), len(lengths), np.int64)
        for row, (_, places) in enumerate(rows):
            factors[row, : len(places)] = places
        constants = np.array([constant for constant, _ in rows], np.float64)
        return _Polynomial.of(constants, factors, lengths, len(self.full))

    def _terms(self, axis: Ids) -> Terms:
        """(units, the groups whose shares of them stay), by which groups an axis's units need."""
        return self._terms_of(self._atoms[axis])

    def _places_of(self, rows: Ids, tensors: Sequence[Tensor]) -> Terms:
        """Places along widths, by the groups and the block that each of them needs."""
        owners = self._owners_of(rows)
        if self._blocks:
            inside = np.where(rows == ALWAYS, _UNSEEN, self._blocks_around(tensors)[rows])
            block = inside.max(axis=1)
            is_common = ((inside == block[:, None]) | (inside == _UNSEEN)).all(axis=1)
            owners = np.column_stack([owners, np.where(is_common & (block >= 0), block, -1)])
        return _count_alike(owners)

    def _pad_rows(self, channels: Ids) -> Ids:
        """Rows of atoms, of one each."""
        rows = np.full((len(channels), self._atoms.shape[1]), ALWAYS)
        rows[:, 0] = channels
        return rows

    def _terms_of(self, atoms: Ids) -> Terms:
        """The same of rows of atoms that are needed."""
        return _count_alike(self._owners_of(atoms))

    def _owners_of(self, atoms: Ids) -> Ids:
        """Whose width each atom follows; -1 where it always stays."""
        found: Ids = np.where(atoms == ALWAYS, -1, self._owner[atoms])
        return found


def _count_alike(owners: Ids) -> Terms:
    kinds, counts = np.unique(np.sort(owners, axis=1), axis=0, return_counts=True)
    return tuple(
        (float(count), tuple(int(owner) for owner in kind if owner >= 0))
        for kind, count in zip(kinds, counts, strict=True)
    )
