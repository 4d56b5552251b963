"""Exact parameters, MACs and bytes of any cut, before it is made.

A tensor's size and a contraction's multiply-accumulates are both a constant times a product of axis
lengths, and a cut changes axis lengths only: to the number of that axis's units that are kept. So
every cost is a sum of such products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import Ids, Solution


@dataclass(frozen=True, slots=True)
class Product:
    """``constant`` times the number of kept units of each of ``axes``."""

    constant: int
    axes: tuple[Ids, ...] = ()


@dataclass(frozen=True, slots=True)
class Contraction:
    """A convolution, matrix product, ... and its cost.

    Attributes:
        layer: the name of the layer it belongs to.
        macs: its multiply-accumulates (half of what ``torch.utils.flop_counter`` counts).
    """

    layer: str
    macs: Product


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a network, dense or cut.

    Attributes:
        params: number of parameters; shared tensors are counted once.
        macs: multiply-accumulates of one forward pass over the example inputs that the network was
            traced with.
        bytes: size of parameters and buffers as they are stored.
        channels: number of positions along the widths of layers that can be pruned. In grids
            (heads by positions, convolution groups by channels in each) every cell counts as one,
            so half of them is half of the layer's width.
    """

    params: int
    macs: int
    bytes: int
    channels: int


class Products:
    """Many products, evaluated together for any choice of kept atoms."""

    def __init__(self, solution: Solution, products: Sequence[Product]) -> None:
        arrays = {id(axis): axis for product in products for axis in product.axes}
        number = {key: place for place, key in enumerate(arrays)}
        self._solution = solution
        self._units = np.concatenate([*arrays.values(), np.zeros(0, np.int64)])
        lengths = [len(axis) for axis in arrays.values()]
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)[:-1]
        width = max((len(product.axes) for product in products), default=0)
        # The last count is a constant 1, for products of fewer axes than the widest.
        ones = [len(arrays)] * width
        rows = [[number[id(axis)] for axis in p.axes] + ones[len(p.axes) :] for p in products]
        self._factors = np.array(rows, np.int64).reshape(len(products), width)
        self._constants = np.array([product.constant for product in products], np.int64)

    def values(self, alive: NDArray[np.bool_]) -> Ids:
        """Value of each product, shape (products,), for a mask of kept atoms, shape (atoms,)."""
        stays = self._solution.mark_kept(alive)[self._units]
        counts = np.add.reduceat(stays, self._starts, dtype=np.int64) if len(stays) else stays
        counts = np.append(counts, 1)
        values: Ids = self._constants * counts[self._factors].prod(axis=1, dtype=np.int64)
        return values
