"""Fewer blocks: which go, by what the network answers without them; then the cut, and its repair.

With calibration images, blocks go one after the other, each time the one without which the outputs
stay nearest to the dense network's (Kullback-Leibler divergence for classes), those before it gone.
Without images, the ones that turn their input least on the example inputs (cosine): a block that
hands on what it is given is little missed.

Source: S. He et al., *What Matters in Transformers?* (2024), and X. Men et al., *ShortGPT* (2024),
for the cosine; B.-K. Kim et al., *Shortened LLaMA* (2024), for what the output says.
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
"""Limits that are no share of what the dense model takes."""

Depth = float | int | Sequence[str]
"""A share of the blocks, a number of them, or their names."""


@dataclass(frozen=True, slots=True)
class BlockLoss:
    """A block that went.

    Attributes:
        name: dotted path of its module.
        loss: the distance of the outputs from the dense network's once it had gone too (see
            ``Fidelity``); without calibration images, one minus the cosine between its input and
            its output.
    """

    name: str
    loss: float


@dataclass(frozen=True, eq=False, slots=True)
class Shallower:
    """A model of fewer blocks.

    Attributes:
        model: the small model; ``report_of`` gives the proof.
        cut: what went.
        order: the blocks that went, in the order in which they were chosen.
    """

    model: Any
    cut: Cut
    order: tuple[BlockLoss, ...]


def remove_depth(
    model: Any, network: Network, depth: Depth, calibration: Any, request: Request
) -> Shallower:
    """Choose blocks, take them out, prove it, and repair the rest.

    Args:
        model: unchanged.
        network: its trace.
        depth: how many blocks go, or which.
        calibration: data as ``prune`` takes them, or None.
        request: what else is asked for.

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
    """The blocks that a cut takes, of the least loss first.

    Args:
        cut: made.
        losses: block -> what the outputs lose when it alone has gone.
    """
    gone = [BlockLoss(block.owner, losses[block.owner]) for block in cut.blocks]
    return tuple(sorted(gone, key=lambda block: block.loss))


def limit_what_blocks_leave(network: Network, budget: Budget) -> Budget:
    """A budget of the dense network, in numbers that hold for what its blocks leave as well.

    Raises:
        BudgetError: it has limits that only the dense model itself can be held against.
    """
    relative = [name for name in budget.limits if name not in (*PRICED, *ABSOLUTE)]
    if relative:
        raise BudgetError(
            f"{', '.join(relative)}: expected limits that hold for any model "
            f"({', '.join((*PRICED, *ABSOLUTE))}) beside depth. Prune with depth= alone, then what "
            "it gives with this budget."
        )
    priced = budget.ablate(*(name for name in budget.limits if name not in PRICED))
    fixed = Budget.from_absolute(priced.absolute_for(network)).limits if priced else {}
    return Budget.of({**budget.as_plain, **fixed})


def _count_of(network: Network, depth: Depth) -> int | Sequence[str]:
    """How many blocks go, or which."""
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
    """The blocks that go, the first to go first."""
    known = {block.name: block for block in network.blocks}
    if isinstance(wanted, int):
        if dense is None:
            least = sorted(known.values(), key=lambda block: block.change)[:wanted]
            return tuple(BlockLoss(block.name, block.change) for block in least)
        return _go_greedily(list(known.values()), wanted, _judge_of(dense), _rounds(dense, wanted))
    network.cut_of_blocks(wanted)  # refuses names of none
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
    """After how many blocks to judge the rest anew: after each, if that takes a minute at most."""
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
