"""The loss without each block, against removing, repairing and evaluating it by hand."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.calibration.batches import iterate_batches
from secateurs.reconstruction import block_losses as module
from secateurs.reconstruction.block_losses import measure_blocks
from secateurs.reconstruction.pruner import Request, open_dense
from support.residual_networks import Residual, settle_moments

IMAGES = torch.rand(96, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    model = settle_moments(Residual())
    model.head.weight.data.mul_(8)
    network = sec.trace(model, IMAGES[:1])
    images = list(iterate_batches(IMAGES, IMAGES[:1], "repair", labels=False))
    return open_dense(model, network, images, Request())


def by_hand(dense, name):
    """(as it drops out, repaired): what ``depth=[name]`` gives."""
    pruned = sec.prune(dense.model, IMAGES[:1], depth=[name], calibration=IMAGES)
    stages = {one.name: one.fidelity.distance for one in pruned.report.fidelity.stages}
    return stages["dropped"], stages["repaired"]


def test_a_block_is_evaluated_after_repair(dense):
    dropped, repaired = by_hand(dense, "blocks.1")
    assert measure_blocks(dense, repair=False)["blocks.1"] == pytest.approx(dropped)
    assert measure_blocks(dense)["blocks.1"] == pytest.approx(min(dropped, repaired))
    assert repaired < 0.5 * dropped


def test_where_walks_are_dear_the_rest_gets_back_as_large_a_share(dense, monkeypatch):
    all_of_it, plain = measure_blocks(dense), measure_blocks(dense, repair=False)
    monkeypatch.setattr(module, "MACS_FOR_CURVES", 0)
    found = measure_blocks(dense)
    params = {block.name: block.params for block in dense.work_network.blocks}
    likeliest = sorted(plain, key=lambda name: plain[name] / params[name])
    shares = [all_of_it[name] / plain[name] for name in likeliest[: module.LEAST_WALKED]]
    for name in likeliest[: module.LEAST_WALKED]:
        assert found[name] == pytest.approx(all_of_it[name])
    for name in likeliest[module.LEAST_WALKED :]:
        assert found[name] == pytest.approx(np.median(shares) * plain[name])
