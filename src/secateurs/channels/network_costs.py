"""Costs of a network: dense, with any choice of kept atoms, and without whole blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cost import Contraction, Cost, Product, Products
from secateurs.channels.equations import Solution
from secateurs.channels.tensors import Tensor
from secateurs.channels.widths import Widths


class NetworkCosts:
    """Parameters, MACs, bytes and places of one network."""

    def __init__(
        self,
        tensors: Collection[Tensor],
        contractions: Sequence[Contraction],
        solution: Solution,
        widths: Widths,
    ) -> None:
        """Store the results of a trace; products are prepared on first use."""
        self._tensors = tensors
        self._contractions = contractions
        self._solution = solution
        self._widths = widths

    def after(self, alive: NDArray[np.bool_]) -> Cost:
        """Cost of what is left, given a mask of the kept atoms."""
        sizes = self._sizes.values(alive)
        return Cost(
            params=int(sizes[self._are_parameters].sum()),
            macs=self.macs(alive),
            bytes=int((sizes * self._item_sizes).sum()),
            channels=self.channels(alive),
        )

    def params(self, alive: NDArray[np.bool_]) -> int:
        """Number of parameters left. Separate from ``after`` because searches call it often."""
        return int(self._sizes.values(alive)[self._are_parameters].sum())

    def macs(self, alive: NDArray[np.bool_]) -> int:
        """Multiply-accumulates left."""
        return int(self._macs.values(alive).sum())

    def channels(self, alive: NDArray[np.bool_]) -> int:
        """Positions along widths left."""
        return self._widths.count(alive)

    def without(self, blocks: Sequence[BlockCut], alive: NDArray[np.bool_]) -> Cost:
        """Cost of what is left without these blocks and with only these atoms of the rest."""

        def stays(name: str) -> bool:
            return not any(block.takes_with_it(name) for block in blocks)

        kept = [t for t in self._tensors if any(map(stays, (t.name, *t.aliases)))]
        macs = [c.macs for c in self._contractions if stays(c.layer)]
        params = [tensor.size for tensor in kept if tensor.is_parameter]
        stored = [Product(t.size.constant * t.itemsize, t.size.axes) for t in kept]
        units = [units for tensor in kept for units in tensor.axes.values()]
        sizes, products, held = (
            int(Products(self._solution, each).values(alive).sum())
            for each in (params, macs, stored)
        )
        rows = self._solution.atoms[np.concatenate([*units, np.zeros(0, np.int64)])]
        return Cost(sizes, products, held, channels=self._widths.count_in(rows, alive))

    @cached_property
    def _sizes(self) -> Products:
        """Numbers of elements of the tensors."""
        return Products(self._solution, [tensor.size for tensor in self._tensors])

    @cached_property
    def _are_parameters(self) -> NDArray[np.bool_]:
        return np.array([tensor.is_parameter for tensor in self._tensors], bool)

    @cached_property
    def _item_sizes(self) -> NDArray[np.int64]:
        return np.array([tensor.itemsize for tensor in self._tensors], np.int64)

    @cached_property
    def _macs(self) -> Products:
        return Products(self._solution, [contraction.macs for contraction in self._contractions])
