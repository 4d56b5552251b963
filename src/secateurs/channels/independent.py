"""The independent proof, as far as it is the same in any framework.

It takes nothing from the tracing rules; of a cut it uses only which slices of which tensors are
removed. In a copy of the dense model, those slices that read the other ones are set to zero. Then
the values of the others must not affect the output, whatever they are, and the small model must
give the copy's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.tensors import layer_of
from secateurs.errors import CutError


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of a tensor: these indices along one axis."""

    tensor: str
    axis: int
    indices: tuple[int, ...]

    @property
    def layer(self) -> str:
        """The layer that the tensor belongs to."""
        return layer_of(self.tensor)


def slices_of(cut: Cut) -> list[Slice]:
    """Everything that a cut removes, one slice for each tensor and axis."""
    return [
        Slice(name, axis, indices)
        for name, removal in cut.tensors.items()
        for axis, indices in removal.removed.items()
        if indices
    ]


def is_all_in(part: Slice, parts: Sequence[Slice]) -> bool:
    """Whether all indices of a slice are in other slices of the same axis.

    >>> is_all_in(Slice("a", 0, (1,)), [Slice("a", 0, (1, 2))])
    True
    """
    here = [p for p in parts if (p.tensor, p.axis) == (part.tensor, part.axis)]
    return set(part.indices) <= {index for p in here for index in p.indices}


def exclude_mixed(network: Network, cut: Cut) -> Cut:
    """Restrict a cut to the channels that no operation mixes, for which the proof is exact."""
    exact = {
        name: channels.removed
        for name, channels in cut.channels.items()
        if not network.group(name).inexact
    }
    return cut if len(exact) == len(cut.channels) else network.cut(exact)


def still_read(parts: Sequence[Slice]) -> CutError:
    """The error for a cut that removes slices which the outputs depend on."""
    names = ", ".join(dict.fromkeys(part.layer for part in parts))
    return CutError(
        f"{names}: expected channels without influence once the weights that read them are zero; "
        "the outputs still depend on them, through an operation without weights of its own (a "
        "sum, a norm, computed weights). Nothing was changed: leave them out of the cut, or use "
        "proof=True, which compares with the masked twin."
    )


def other_answers(
    name: str, zero: Sequence[Slice], difference: float, tolerance: float
) -> CutError:
    """The error for a cut whose small model does not give the silenced dense model's outputs."""
    readers = ", ".join(dict.fromkeys(part.layer for part in zero))
    return CutError(
        f"{name}: with the weights that read these channels at zero ({readers}), the dense model "
        f"does not do what the cut one does: expected a largest difference of {tolerance:.2g} or "
        f"less, received {difference:.2g}. The cut was not made. Please report it."
    )
