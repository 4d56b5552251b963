"""Mapping of the filters of a layer, as its user numbers them, to atoms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from secateurs import formatting
from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.tensors import Role, Tensor
from secateurs.errors import CutError, UnknownNameError, nearest


class LayerFilters:
    """The filters of a network's layers."""

    def __init__(
        self,
        tensors: Collection[Tensor],
        solution: Solution,
        layer_channels: Mapping[str, Ids],
    ) -> None:
        """The filters of the layers that these tensors belong to.

        Args:
            tensors: tensors of the network.
            solution: solution of the equations between their units.
            layer_channels: layer -> units, where its channels are not the filters of one weight.
        """
        self._tensors = tensors
        self._solution = solution
        self._layer_channels = layer_channels

    def find_atoms(self, layer: str, indices: Sequence[int]) -> Ids:
        """The atoms to remove so that these filters of a layer are removed.

        Raises:
            UnknownNameError: no such layer.
            CutError: the filters are frozen, out of range, given twice or all of them, or are part
                of a grid (heads, convolution groups) and not whole rows or columns of it.
        """
        units, length = self._units_of(layer)
        wanted = check_indices(layer, indices, length)
        atoms = self._solution.atoms[units]
        for index in wanted:
            if not atoms[index].any():
                why = self._solution.reasons.get(int(units[index]), ())
                raise CutError(
                    f"{layer}: filter {index} cannot be removed: {'; '.join(why) or 'it is frozen'}"
                )
        rest = np.setdiff1d(np.arange(len(units)), wanted)
        whole: Ids = np.setdiff1d(atoms[list(wanted)], atoms[rest])
        whole = whole[whole != ALWAYS]
        if not np.isin(atoms[list(wanted)], whole).any(axis=1).all():
            raise CutError(
                f"{layer}: its filters form a grid (heads or convolution groups), of which only "
                f"whole rows or columns can go; received {formatting.ranges(wanted)}. "
                f"Its smallest removable sets: {_format_removable_sets(atoms)}"
            )
        return whole

    def _units_of(self, layer: str) -> tuple[Ids, int]:
        """Units of a layer's channels, and their number with frozen ones included."""
        units = self._layer_channels.get(layer)
        if units is not None:
            return units, len(units)
        tensor, axis = self._filter_axis(layer)
        return tensor.axes.get(axis, np.zeros(0, np.int64)), tensor.shape[axis]

    def _filter_axis(self, layer: str) -> tuple[Tensor, int]:
        """The axis along which a layer's channels lie: of its filters, else its scales, ..."""
        tensors = [t for t in self._tensors if layer in _names_for(t)]
        for role in (Role.FILTER, Role.SCALE, Role.SHIFT, Role.OTHER):
            for tensor in tensors:
                for axis, played in sorted(tensor.roles.items()):
                    if played is role:
                        return tensor, axis
        if tensors:
            raise CutError(
                f"{layer}: expected a layer with channels of its own; its tensors have none that "
                "can be followed. Name the layer whose filters make these channels."
            )
        known = list(dict.fromkeys([*(t.layer for t in self._tensors), *self._layer_channels]))
        raise UnknownNameError(f"no layer with weights named {layer!r}{nearest(layer, known)}")


def _names_for(tensor: Tensor) -> tuple[str, ...]:
    """Its layer; its own name; and of a weight that is computed from it, the path of that."""
    return tensor.layer, tensor.name, tensor.name.rpartition(".")[0]


def check_indices(name: str, indices: Sequence[int] | Ids, size: int) -> tuple[int, ...]:
    """Check indices of channels, and return them in ascending order.

    Raises:
        CutError: one is out of range or given twice, or all are given.
    """
    given = indices.tolist() if isinstance(indices, np.ndarray) else [int(i) for i in indices]
    if given and not 0 <= min(given) <= max(given) < size:
        outside = next(index for index in given if not 0 <= index < size)
        raise CutError(f"{name}: expected indices of 0 to {size - 1}; received {outside}")
    if len(set(given)) < len(given):
        twice = next(index for index, times in Counter(given).items() if times > 1)
        raise CutError(f"{name}: expected each index once; received {twice} twice")
    if len(given) == size:
        raise CutError(
            f"{name}: expected a cut that leaves at least one channel; received all {size}. "
            "Remove fewer."
        )
    return tuple(sorted(given))


def _format_removable_sets(atoms: Ids, most: int = 4) -> str:
    numbers = [atom for atom in np.unique(atoms).tolist() if atom != ALWAYS]
    sets = [np.flatnonzero((atoms == atom).any(axis=1)).tolist() for atom in numbers[:most]]
    listed = "; ".join(f"[{formatting.ranges(indices)}]" for indices in sets)
    return f"{listed}{'; ...' if len(numbers) > most else ''}"
