"""Residual blocks: what can go whole, and how that is written down.

A block gives its input plus something. Without the something its skip remains, and if nothing
happens on the skip, nothing remains of the block at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateurs.formatting import count, percent, table


@dataclass(frozen=True, slots=True)
class BlockCut:
    """A residual block that goes, as plain data.

    Attributes:
        owner: dotted path of its module.
        keeps: what stays of it: the children on its skip, in the order in which they run. Of most
            blocks none does; of one that changes the shape, its projection.
        after: the activation behind the sum, such as 'relu', where the skip does not go on as it
            is; else ''.
        place: which positional argument is its input.
        keyword: the name of that argument where it may be given by name; else ''.
        gives: how many things it returns in a tuple, the first of them its output; 0 is no tuple.
        shortens: whether the list that holds it gets shorter, so that those behind it are numbered
            anew. Else something that hands its input on takes its place.
        layers: of a block that no module holds, such as one in the graph of a Keras model: the
            layers that go, by their paths. ``owner`` is its sum then, and ``place`` the operand
            that stays.
    """

    owner: str
    keeps: tuple[str, ...] = ()
    after: str = ""
    place: int = 0
    keyword: str = ""
    gives: int = 0
    shortens: bool = False
    layers: tuple[str, ...] = ()

    def takes_with_it(self, name: str) -> bool:
        """Whether a tensor or layer of this name goes with the block."""
        if self.layers:
            return any(_is_in(name, layer) for layer in (self.owner, *self.layers))
        inside = _is_in(name, self.owner)
        kept = (f"{self.owner}.{child}" for child in self.keeps)
        return inside and not any(_is_in(name, one) for one in kept)


def _is_in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block of a network.

    Attributes:
        cut: what takes it out.
        params: numbers in the parameters that go with it.
        macs: multiply-accumulates of a pass that go with it.
        change: one minus the cosine between what comes in on its skip and what it gives, over the
            example inputs; a block that hardly turns its input is little missed.
        inexact: normalisations on the skip itself that go with the block, so that what is left is
            not the block with its branch at zero; '' where there are none.
    """

    cut: BlockCut
    params: int
    macs: int
    change: float
    inexact: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Dotted path of its module."""
        return self.cut.owner


def table_of_blocks(blocks: Sequence[Block], params: int, macs: int) -> str:
    """The blocks with what goes with each, as text; shares are of these totals."""
    rows = [
        (
            block.name,
            f"{count(block.params)} ({percent(block.params / max(1, params))})",
            f"{count(block.macs)} ({percent(block.macs / max(1, macs))})",
            f"{block.change:.3g}",
            ", ".join(block.cut.keeps) or "nothing",
        )
        for block in blocks
    ]
    return table(("block", "parameters", "MACs", "change", "what stays"), rows, (1, 2, 3))


class Numbering:
    """How names change where lists of layers have become shorter.

    Args:
        blocks: that went, by their names in the dense model.
    """

    def __init__(self, blocks: Iterable[BlockCut]) -> None:
        self._gone: dict[str, list[int]] = {}
        for block in blocks:
            if block.shortens:
                path, _, number = block.owner.rpartition(".")
                self._gone.setdefault(path, []).append(int(number))
        self._outer_first = sorted(self._gone, key=lambda path: path.count("."))

    def __bool__(self) -> bool:
        return bool(self._gone)

    def before(self, name: str) -> str:
        """A name in the cut model -> the name in the dense one."""
        for path in self._outer_first:
            gone = sorted(self._gone[path])
            number = _number_in(name, path)
            if number is not None:
                name = _renumber(name, path, number, _number_before(number, gone))
        return name

    def after(self, name: str) -> str | None:
        """A name in the dense model -> the name in the cut one; None where it went."""
        for path in reversed(self._outer_first):
            gone = self._gone[path]
            number = _number_in(name, path)
            if number in gone:
                return None
            if number is not None:
                fewer = sum(one < number for one in gone)
                name = _renumber(name, path, number, number - fewer)
        return name


def _number_before(number: int, gone: Sequence[int]) -> int:
    for one in gone:  # rising
        if one <= number:
            number += 1
    return number


def _number_in(name: str, path: str) -> int | None:
    """The number of the list's element that a name is of or in; None where it is of another."""
    if not name.startswith(f"{path}."):
        return None
    number = name[len(path) + 1 :].partition(".")[0]
    return int(number) if number.isascii() and number.isdecimal() else None


def _renumber(name: str, path: str, number: int, new: int) -> str:
    rest = name[len(path) + 1 + len(str(number)) :]
    return f"{path}.{new}{rest}"
