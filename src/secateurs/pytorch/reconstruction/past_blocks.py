"""Walk dense and small networks together where whole blocks were removed.

Steps of both are numbered like the dense model's. Where the dense model adds a branch that the
small one lacks, the small one's value is that of its skip.
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
    """The steps that the small model skips.

    Attributes:
        left_out: numbers of steps of removed branches.
        instead: number of a step -> (value that a later step would give, value that replaces it).
    """

    left_out: set[int] = field(default_factory=set)
    instead: dict[int, list[tuple[Ref, Ref]]] = field(default_factory=dict)

    def take(self, piece: Piece, step: Step) -> None:
        """Take a step of the small model, or its replacement."""
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
    """The detour around removed blocks of a model.

    Args:
        model: the dense model; unchanged.
        example_inputs: inputs with values.
        operations: operations of its trace.
        blocks: removed blocks.

    Raises:
        ModelError: a block is not found in the model's pass.
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
    """Replace the block's output by its input, as soon as that is known."""
    target, source = Ref(found.values[0].number), Ref(found.values[-1].number)
    # Steps of the block after its output value, such as a move of axes, are kept.
    steps = {number for number in inside if number <= target.step}
    detour.left_out |= steps
    detour.instead.setdefault(min(steps), []).append((target, source))


def _past_branches(detour: Detour, found: FoundBlock, inside: set[int]) -> None:
    """Replace each sum on the skip by the skip's value; other steps on the skip still run."""
    kept = {value.number for value in found.values[:-1] if not value.is_sum}
    detour.left_out |= inside - kept
    for value, before in zip(found.values, found.values[1:], strict=False):
        if value.is_sum:
            pair = Ref(value.number), Ref(before.number)
            detour.instead.setdefault(value.number, []).append(pair)


def around_small(dense: nn.Module, small: nn.Module, blocks: Sequence[BlockCut]) -> nn.Module:
    """The dense model's modules around the small model's tensors, wherever it still has them."""
    before = Numbering(blocks).before
    theirs = {before(leaf.name): leaf.tensor for leaf in list_tensors(small)}
    memo: dict[int, object] = {
        id(leaf.tensor): theirs.get(leaf.name, leaf.tensor) for leaf in list_tensors(dense)
    }
    with torch.no_grad():
        return copy_modules(dense, memo).eval()
