"""Removal of residual blocks: choice of the blocks, the cut, and its repair.

With calibration images, blocks are removed greedily: each time the one without which the outputs
stay nearest to the dense network's (Kullback-Leibler divergence for classes), given those removed
before. Without images, the blocks whose output is most similar to their input (cosine) on the
example inputs are removed, since they change little.

Source: S. He et al., *What Matters in Transformers?* (2024), and X. Men et al., *ShortGPT* (2024),
for the cosine; B.-K. Kim et al., *Shortened LLaMA* (2024), for judging by the output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateurs.backends import backend_named
from secateurs.channels.blocks import Block
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.planning.measured import PRICED
from secateurs.reconstruction.pruner import (
    Request,
    images_for_repair,
    make_faithful,
    no_blocks,
    open_dense,
)
from secateurs.reconstruction.session import MACS_FOR_CURVES, DenseReference, images_in

ABSOLUTE = ("latency_ms", "throughput")
"""Limits that are always absolute, not fractions of the dense model."""

Depth = float | int | Sequence[str]
"""A share of the blocks, a number of them, or their names."""


@dataclass(frozen=True, slots=True)
class BlockLoss:
    """A removed block and what its removal cost.

    Attributes:
        name: dotted path of its module.
        loss: distance of the outputs from the dense network's once this block was removed too (see
            ``Fidelity``); without calibration images, one minus the cosine similarity between its
            input and its output.
    """

    name: str
    loss: float


@dataclass(frozen=True, eq=False, slots=True)
class Shallower:
    """A model with fewer blocks.

    Attributes:
        model: the small model; ``report_of`` gives the proof.
        cut: what was removed.
        order: the removed blocks, in the order in which they were chosen.
    """

    model: Any
    cut: Cut
    order: tuple[BlockLoss, ...]


def remove_depth(
    model: Any, network: Network, depth: Depth, calibration: Any, request: Request
) -> Shallower:
    """Choose blocks, remove and prove them, and repair the rest.

    Args:
        model: the dense model; it is not changed.
        network: its trace.
        depth: share, number or names of the blocks to remove.
        calibration: data as for ``prune``, or None.
        request: other options of the call.

    Raises:
        BudgetError: the model has no such number of blocks.
        UnknownNameError: it has no block of such a name.
    """
    start = time.perf_counter()
    images = images_for_repair(network, calibration, request)
    dense = None if images is None else open_dense(model, network, images, request)
    order = _order(network, dense, _count_of(network, depth))
    cut = network.cut_of_blocks([loss.name for loss in order])
    backend = backend_named(network.source.framework)
    small = backend.apply(
        model, cut, network.source.example_inputs, network=network, proof=request.proof
    )
    if dense is not None:
        small = make_faithful(
            dense,
            small,
            dense.work_network.alive(),
            repair=request.repair is not False,
            distil=request.distil,
            seed=request.seed,
            seconds=time.perf_counter() - start,
            cut=cut,
        )
    return Shallower(small, cut, order)


def blocks_that_went(cut: Cut, losses: Mapping[str, float]) -> tuple[BlockLoss, ...]:
    """The blocks that a cut removes, sorted by ascending loss.

    Args:
        cut: the cut.
        losses: block -> loss of the outputs when only that block is removed.
    """
    gone = [BlockLoss(block.owner, losses[block.owner]) for block in cut.blocks]
    return tuple(sorted(gone, key=lambda block: block.loss))


def limit_what_blocks_leave(network: Network, budget: Budget) -> Budget:
    """Convert a budget for the dense network to limits that also hold for what its blocks leave.

    Raises:
        BudgetError: it has limits that are defined relative to the dense model only.
    """
    relative = [name for name in budget.limits if name not in (*PRICED, *ABSOLUTE)]
    if relative:
        raise BudgetError(
            f"{', '.join(relative)}: expected limits that hold for any model "
            f"({', '.join((*PRICED, *ABSOLUTE))}) beside depth. Prune with depth= alone, then "
            "prune the result with this budget."
        )
    priced = budget.ablate(*(name for name in budget.limits if name not in PRICED))
    fixed = Budget.from_absolute(priced.absolute_for(network)).limits if priced else {}
    return Budget.of({**budget.as_plain, **fixed})


def _count_of(network: Network, depth: Depth) -> int | Sequence[str]:
    """Number of blocks to remove, or their names."""
    blocks = network.blocks
    if isinstance(depth, str):
        return [depth]
    if isinstance(depth, Sequence):
        return list(depth)
    count = round(depth * len(blocks)) if depth < 1 else int(depth)
    if not blocks:
        raise no_blocks(network)
    if not 1 <= count <= len(blocks) or (depth >= 1 and depth != count):
        raise BudgetError(
            f"depth: expected a share in (0, 1) of {len(blocks)} blocks that is at least one of "
            f"them, a whole number of 1 to {len(blocks)}, or names of blocks; received {depth}"
        )
    return count


def _order(
    network: Network, dense: DenseReference | None, wanted: int | Sequence[str]
) -> tuple[BlockLoss, ...]:
    """The blocks to remove, in the order of removal."""
    known = {block.name: block for block in network.blocks}
    if isinstance(wanted, int):
        if dense is None:
            least = sorted(known.values(), key=lambda block: block.change)[:wanted]
            return tuple(BlockLoss(block.name, block.change) for block in least)
        return _go_greedily(list(known.values()), wanted, _judge_of(dense), _rounds(dense, wanted))
    network.cut_of_blocks(wanted)  # raises for unknown names
    chosen = [known[name] for name in dict.fromkeys(wanted)]
    if dense is None:
        return tuple(BlockLoss(block.name, block.change) for block in chosen)
    judge = _judge_of(dense)
    return tuple(
        BlockLoss(block.name, judge(chosen[: number + 1])) for number, block in enumerate(chosen)
    )


def _judge_of(dense: DenseReference) -> Callable[[Sequence[Block]], float]:
    def judge(gone: Sequence[Block]) -> float:
        without = dense.framework.skip_blocks(dense.work, [block.cut for block in gone])
        return dense.fidelity(without).distance

    return judge


def _rounds(dense: DenseReference, wanted: int) -> int:
    """Number of blocks to remove before judging the rest again: 1 if all take a minute at most."""
    judged = sum(len(batch) for batch in dense.judge)
    each = dense.work_network.macs() / max(1, images_in(dense.example)) * judged
    affordable = int(MACS_FOR_CURVES / max(1.0, each * len(dense.work_network.blocks)))
    return -(-wanted // max(1, min(wanted, affordable)))


def _go_greedily(
    left: list[Block], wanted: int, judge: Callable[[Sequence[Block]], float], at_once: int
) -> tuple[BlockLoss, ...]:
    gone: list[Block] = []
    order: list[BlockLoss] = []
    while len(gone) < wanted:
        losses = [(judge([*gone, block]), number) for number, block in enumerate(left)]
        best = sorted(losses)[: min(at_once, wanted - len(gone))]
        for loss, number in best:
            gone.append(left[number])
            order.append(BlockLoss(left[number].name, loss))
        left = [block for block in left if block not in gone]
    return tuple(order)
