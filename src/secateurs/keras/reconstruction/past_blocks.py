"""Walk dense and small networks together where whole blocks were removed.

The small model is run as the dense model's steps without those of the removed blocks, so that both
have the same step numbers. Where the dense model adds a removed branch, the small model's value is
that of the skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import ModelError
from secateurs.keras.model.example_inputs import as_arrays
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.reconstruction.program import GraphStep, Piece, Program
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.trace_model import source_of
from secateurs.keras.tracing.blocks import FoundBlock, watch_blocks


@dataclass(eq=False, slots=True)
class Detour:
    """The steps that the small model skips.

    Attributes:
        gone: indices of calls that it does not make.
        branches: index of a sum's call -> position of the operand that is the branch.
        norms: indices of calls of normalisations on a removed skip, whose input is handed on.
    """

    gone: set[int] = field(default_factory=set)
    branches: dict[int, int] = field(default_factory=dict)
    norms: set[int] = field(default_factory=set)

    def leaves(self, step: GraphStep) -> bool:
        """Return whether the small model has a step."""
        return step.operation not in self.gone

    def take(self, piece: Piece, step: GraphStep) -> None:
        """Take a step of the small model, or its replacement."""
        which = self.branches.get(step.operation)
        if which is not None:
            piece.keep(step, [piece.values[step.reads[1 - which]]])
        elif step.operation in self.norms:
            piece.keep(step, [piece.values[step.reads[0]]])
        elif self.leaves(step):
            piece.do(step)
        else:
            piece.done += 1


def find_detour(
    model: keras.Model, images: object, blocks: Sequence[BlockCut], program: Program
) -> Detour:
    """The detour around removed blocks of a model.

    Args:
        model: dense model; unchanged.
        images: inputs of the model.
        blocks: removed blocks.
        program: steps of the dense model.

    Raises:
        ModelError: a block is not found in the model's forward pass.
    """
    arrays: list[NDArray[np.generic]] = as_arrays(images, model)
    found: dict[BlockCut, FoundBlock] = {one.cut: one for one in watch_blocks(model, arrays)}
    detour = Detour()
    sums = {step.operation: step for step in program.steps if step.is_whole}
    for block in blocks:
        one = found.get(block)
        if one is None or any(len(sums[n].reads) != 2 for n in one.branches if n in sums):
            raise ModelError(
                f"repair: expected the block {block.owner} to be found on the calibration images; "
                "it is not. Pass repair=False."
            )
        detour.gone |= one.gone
        detour.branches.update(one.branches)
        detour.norms |= one.norms.keys()
    return detour


def around_small(network: Network, small: keras.Model, cut: Cut) -> keras.Model:
    """Return the dense model without the cut's channels but with its blocks.

    Its weights are those of the small model wherever that has them.
    """
    narrower = Cut()
    if cut.channels:
        narrower = network.cut({name: of.removed for name, of in cut.channels.items()})
    whole = cut_copy(source_of(network).model, narrower, compiled=False)
    theirs = {leaf.name: leaf.variable for leaf in list_tensors(small)}
    for leaf in list_tensors(whole):
        if leaf.name in theirs:
            leaf.variable.assign(theirs[leaf.name].value)
    return whole


def give_back_(whole: keras.Model, small: keras.Model) -> None:
    """Copy the weights of the model that was walked in place of the small one to the small one."""
    known = {leaf.name: leaf.variable for leaf in list_tensors(whole)}
    for leaf in list_tensors(small):
        leaf.variable.assign(known[leaf.name].value)
