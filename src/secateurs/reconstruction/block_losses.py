"""What a network loses without each of its residual blocks alone, once the rest is repaired.

The curves of groups are of what is left after a refit, so blocks beside them are judged after the
same walk that repairs them in the end. Where that takes long, the likeliest are walked, and the
others are taken to get back as large a share of their loss as those do.
"""

from __future__ import annotations

import numpy as np

from secateurs.channels.blocks import Block
from secateurs.errors import ModelError
from secateurs.reconstruction.session import MACS_FOR_CURVES, DenseReference, images_in

LEAST_WALKED = 2
"""Blocks, whatever it takes: repairing the result takes as long once more."""


def measure_blocks(dense: DenseReference, *, repair: bool = True) -> dict[str, float]:
    """Block -> the distance of the outputs from the dense network's when it alone has gone.

    Args:
        dense: the model and its images.
        repair: whether the result will be repaired; else this is the loss as the block drops out.
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
    """How many walks measuring may take."""
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
        return float("inf")  # it cannot be followed in step: it counts as it drops out
    return dense.fidelity(twin).distance
