"""Residual blocks: which can be removed whole, and how their removal is recorded.

A residual block adds a branch to its input. Without the branch its skip connection remains; where
the skip is the identity, nothing of the block remains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateurs.formatting import count, percent, table


@dataclass(frozen=True, slots=True)
class BlockCut:
    """The removal of one residual block, as plain data.

    Attributes:
        owner: dotted path of the block's module.
        keeps: children that stay because they lie on the skip, in the order in which they run:
            empty for most blocks; the projection, for one that changes the shape.
        after: activation after the sum, such as 'relu', where the value on the skip is not passed
            on unchanged; else ''.
        place: position of the argument that is the block's input.
        keyword: name of that argument where it may be passed by keyword; else ''.
        gives: length of the tuple that the block returns, whose first item is its output; 0 where
            it returns no tuple.
        shortens: whether the list that holds the block gets shorter, so that the elements after it
            are renumbered. Otherwise an identity takes the block's place.
        layers: for a block that is not a module of its own, such as one in a Keras graph: paths of
            the layers to remove. ``owner`` is then the sum, and ``place`` the operand that stays.
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
        """Whether a tensor or layer of this name is removed with the block."""
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
        cut: the record of its removal.
        params: number of parameters removed with it.
        macs: multiply-accumulates per forward pass removed with it.
        change: one minus the cosine similarity between the value on its skip and its output, over
            the example inputs. A block that hardly changes its input is hardly missed.
        inexact: normalisations on the skip itself that are removed with the block, so that the
            result differs from the block with a zero branch; () where there are none.
    """

    cut: BlockCut
    params: int
    macs: int
    change: float
    inexact: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Dotted path of the block's module."""
        return self.cut.owner


def table_of_blocks(blocks: Sequence[Block], params: int, macs: int) -> str:
    """Format the blocks and what is removed with each as a table, with shares of these totals."""
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
    """Translate names between a dense model and one whose lists of layers have become shorter.

    Args:
        blocks: removed blocks, by their names in the dense model.
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
        """The name in the dense model of a name in the cut one."""
        for path in self._outer_first:
            gone = sorted(self._gone[path])
            number = _number_in(name, path)
            if number is not None:
                name = _renumber(name, path, number, _number_before(number, gone))
        return name

    def after(self, name: str) -> str | None:
        """The name in the cut model of a name in the dense one; None if it was removed."""
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
    for one in gone:  # in ascending order
        if one <= number:
            number += 1
    return number


def _number_in(name: str, path: str) -> int | None:
    """Index of the list element that a name belongs to; None if it belongs to none."""
    if not name.startswith(f"{path}."):
        return None
    number = name[len(path) + 1 :].partition(".")[0]
    return int(number) if number.isascii() and number.isdecimal() else None


def _renumber(name: str, path: str, number: int, new: int) -> str:
    rest = name[len(path) + 1 + len(str(number)) :]
    return f"{path}.{new}{rest}"
