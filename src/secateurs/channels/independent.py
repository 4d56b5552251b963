"""What the second proof is made of in any framework: silence who reads, and nothing may change.

Of a cut, only that these slices of these tensors go. In a copy of the dense model those of them
that read the others are set to zero. Then no other slice that goes may matter, whatever is put
there, and the small model must answer what the copy answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
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
        return self.tensor.rpartition(".")[0] or self.tensor


def slices_of(cut: Cut) -> list[Slice]:
    """Everything that a cut removes, axis by axis."""
    return [
        Slice(name, axis, indices)
        for name, removal in cut.tensors.items()
        for axis, indices in removal.removed.items()
        if indices
    ]


def is_all_in(part: Slice, parts: Sequence[Slice]) -> bool:
    """Whether all of a slice is in others of its axis.

    >>> is_all_in(Slice("a", 0, (1,)), [Slice("a", 0, (1, 2))])
    True
    """
    here = [p for p in parts if (p.tensor, p.axis) == (part.tensor, part.axis)]
    return set(part.indices) <= {index for p in here for index in p.indices}


def exclude_mixed(network: Network, cut: Cut) -> Cut:
    """What of a cut no operation mixes: the only part of which nothing may change."""
    exact = {
        name: channels.removed
        for name, channels in cut.channels.items()
        if not network.group(name).inexact
    }
    return cut if len(exact) == len(cut.channels) else network.cut(exact)


def still_read(parts: Sequence[Slice]) -> CutError:
    """Why a cut is refused that takes slices the answers depend on."""
    names = ", ".join(dict.fromkeys(part.layer for part in parts))
    return CutError(
        f"{names}: expected channels that nobody reads once their readers' weights are zero; "
        "the answers still depend on them, through an operation without weights of its own (a "
        "sum, a norm, weights computed of others). Nothing was changed: leave them out of the "
        "cut, or take proof=True, which holds the small model against what is left of them."
    )


def other_answers(
    name: str, zero: Sequence[Slice], difference: float, tolerance: float
) -> CutError:
    """Why a cut is refused whose small model does not answer what the silenced one does."""
    readers = ", ".join(dict.fromkeys(part.layer for part in zero))
    return CutError(
        f"{name}: with nobody reading these channels (weights of {readers} at zero) the dense "
        f"model does not do what the cut one does: expected a largest difference of "
        f"{tolerance:.2g} or less, received {difference:.2g}. The cut was not made. Please report "
        "it."
    )
