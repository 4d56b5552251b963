"""The parts of a cut that follow from the kept atoms: tensors, sizes and factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cost import Products
from secateurs.channels.cut import Rescaling, SizeChange, TensorCut
from secateurs.channels.equations import Solution
from secateurs.channels.tensors import Scaling, Size, Tensor
from secateurs.errors import CutError


def cut_tensors(
    tensors: Iterable[Tensor], solution: Solution, alive: NDArray[np.bool_]
) -> dict[str, TensorCut]:
    """Removed indices of each tensor; unchanged tensors are omitted.

    Args:
        tensors: tensors of the network.
        solution: solution of the equations between their units.
        alive: mask of the kept atoms, shape (atoms,).

    Raises:
        CutError: no index of some axis would be left.
    """
    stays = solution.mark_kept(alive)
    gone_along: dict[int, tuple[int, ...]] = {}
    cuts: dict[str, TensorCut] = {}
    for tensor in tensors:
        removed = {}
        for axis, units in sorted(tensor.axes.items()):
            if id(units) not in gone_along:
                gone_along[id(units)] = tuple(np.flatnonzero(~stays[units]).tolist())
            if gone := gone_along[id(units)]:
                if len(gone) == tensor.shape[axis]:
                    raise CutError(
                        f"{tensor.name}: expected a cut that keeps some of axis {axis}; received "
                        f"one that removes all {len(gone)}. Leave at least one channel."
                    )
                removed[axis] = gone
        if removed:
            cuts[tensor.name] = TensorCut(tensor.shape, removed)
    return cuts


def change_sizes(
    sizes: Sequence[Size], solution: Solution, alive: NDArray[np.bool_]
) -> tuple[SizeChange, ...]:
    """The integer sizes that change when only the atoms in ``alive`` are kept."""
    products = Products(solution, [size.value for size in sizes])
    before, after = products.values(_everything(solution)), products.values(alive)
    return tuple(
        SizeChange(size.owner, size.attribute, size.position, int(old), int(new))
        for size, old, new in zip(sizes, before, after, strict=True)
        if old != new
    )


def rescale(
    scalings: Sequence[Scaling], solution: Solution, alive: NDArray[np.bool_]
) -> tuple[Rescaling, ...]:
    """The factors on weights that are needed when only the atoms in ``alive`` are kept."""
    products = Products(solution, [scaling.size for scaling in scalings])
    before, after = products.values(_everything(solution)), products.values(alive)
    return tuple(
        Rescaling(
            scaling.tensor,
            scaling.axis,
            tuple(scaling.indices.tolist()),
            float(new / old) ** scaling.power,
        )
        for scaling, old, new in zip(scalings, before, after, strict=True)
        if old != new
    )


def _everything(solution: Solution) -> NDArray[np.bool_]:
    return np.ones(solution.count, bool)
