"""Loss of a network without each of its residual blocks, after the rest is repaired.

Groups' error curves are measured after a refit, so blocks that compete with them are judged after
the walk that will repair the result. Where walks take long, only the likeliest blocks are walked,
and the others are assumed to recover the same share of their loss as those do (the median).
"""

from __future__ import annotations

import numpy as np

from secateurs.channels.blocks import Block
from secateurs.errors import ModelError
from secateurs.reconstruction.session import MACS_FOR_CURVES, DenseReference, images_in

LEAST_WALKED = 2
"""Number of blocks that are walked in any case: repairing the result takes as long once more."""


def measure_blocks(dense: DenseReference, *, repair: bool = True) -> dict[str, float]:
    """Block -> distance of the outputs from the dense network's when only that block is removed.

    Args:
        dense: the dense model and its images.
        repair: whether the result will be repaired; otherwise losses are measured without repair.
    """
    blocks = dense.work_network.blocks
    dropped = {block.name: _loss_without(dense, block) for block in blocks}
    if not repair:
        return dropped
    likeliest = sorted(blocks, key=lambda block: dropped[block.name] / max(1, block.params))
    walked = {
        block.name: min(dropped[block.name], _loss_repaired(dense, block))
        for block in likeliest[: _affordable(dense)]
    }
    shares = [walked[name] / dropped[name] for name in walked if dropped[name] > 0]
    share = float(np.median(shares)) if shares else 1.0
    return {name: walked.get(name, share * loss) for name, loss in dropped.items()}


def _affordable(dense: DenseReference) -> int:
    """Number of walks that the measurement can afford."""
    images = len(dense.calibration.fit) + len(dense.calibration.choose)
    each = dense.work_network.macs() / max(1, images_in(dense.example))
    return max(LEAST_WALKED, int(MACS_FOR_CURVES / max(1.0, 2 * each * images)))


def _loss_without(dense: DenseReference, *blocks: Block) -> float:
    cuts = [block.cut for block in blocks]
    return dense.fidelity(dense.framework.skip_blocks(dense.work, cuts)).distance


def _loss_repaired(dense: DenseReference, block: Block) -> float:
    network, calibration = dense.work_network, dense.calibration
    twin = dense.framework.copy_of(dense.framework.skip_blocks(dense.work, [block.cut]))
    cut = network.cut_of_blocks([block.name])
    try:
        dense.framework.walk(
            network, twin, network.alive(), calibration.fit, calibration.choose, cut
        )
    except ModelError:
        return float("inf")  # it cannot be walked: the loss without repair counts
    return dense.fidelity(twin).distance
