"""The walk past blocks that went: the small model as the dense one's steps, less those of blocks.

Both networks are walked by the same numbers. Where the dense one adds a branch that the small one
has not, the small one's value is its skip's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from secateurs.channels.blocks import BlockCut, Numbering
from secateurs.errors import ModelError
from secateurs.pytorch.model.copies import copy_modules, share_tensors
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.reconstruction.program import Piece
from secateurs.pytorch.replay.tape import Ref, Step
from secateurs.pytorch.tracing.blocks import FoundBlock, watch_blocks
from secateurs.pytorch.tracing.op_record import OpRecord


@dataclass(eq=False, slots=True)
class Detour:
    """Which steps the small model does not take.

    Attributes:
        left_out: numbers of steps of branches.
        instead: number of a step -> (the value that a later one would give, what takes its place).
    """

    left_out: set[int] = field(default_factory=set)
    instead: dict[int, list[tuple[Ref, Ref]]] = field(default_factory=dict)

    def take(self, piece: Piece, step: Step) -> None:
        """A step of the small model, or what there is in its place."""
        for target, source in self.instead.get(step.number, ()):
            piece.values[target] = piece.values[source]
        if step.number in self.left_out:
            piece.done += 1
        else:
            piece.do(step)


def find_detour(
    model: nn.Module,
    example_inputs: object,
    operations: Sequence[OpRecord],
    blocks: Sequence[BlockCut],
) -> Detour:
    """The detour past some blocks of a model.

    Args:
        model: the dense one; unchanged.
        example_inputs: real ones.
        operations: of its trace.
        blocks: those that went.

    Raises:
        ModelError: they are not found in its pass.
    """
    found = {one.path: one for one in watch_blocks(share_tensors(model), example_inputs)}
    detour = Detour()
    for block in blocks:
        one = found.get(block.owner)
        if one is None or one.values[-1].number < 0:
            raise ModelError(
                f"repair: expected the block {block.owner} to be found on the calibration images; "
                "it is not. Pass repair=False."
            )
        inside = {n for n, op in enumerate(operations) if block.takes_with_it(op.layer)}
        (_past_all if one.norms else _past_branches)(detour, one, inside)
    return detour


def _past_all(detour: Detour, found: FoundBlock, inside: set[int]) -> None:
    """What the block gives is what it was given, as soon as that is there."""
    target, source = Ref(found.values[0].number), Ref(found.values[-1].number)
    # The last of what a block gives is not in it where a move follows it: those stay.
    steps = {number for number in inside if number <= target.step}
    detour.left_out |= steps
    detour.instead.setdefault(min(steps), []).append((target, source))


def _past_branches(detour: Detour, found: FoundBlock, inside: set[int]) -> None:
    """Each sum on the skip is what the skip brings; what else is on the skip is done."""
    kept = {value.number for value in found.values[:-1] if not value.is_sum}
    detour.left_out |= inside - kept
    for value, before in zip(found.values, found.values[1:], strict=False):
        if value.is_sum:
            pair = Ref(value.number), Ref(before.number)
            detour.instead.setdefault(value.number, []).append(pair)


def around_small(dense: nn.Module, small: nn.Module, blocks: Sequence[BlockCut]) -> nn.Module:
    """The dense model's modules around the small one's tensors, wherever it still has them."""
    before = Numbering(blocks).before
    theirs = {before(leaf.name): leaf.tensor for leaf in list_tensors(small)}
    memo: dict[int, object] = {
        id(leaf.tensor): theirs.get(leaf.name, leaf.tensor) for leaf in list_tensors(dense)
    }
    with torch.no_grad():
        return copy_modules(dense, memo).eval()
