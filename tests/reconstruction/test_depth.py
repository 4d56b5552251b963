"""Removing blocks: which are removed, and how repair compensates."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

import secateurs as sec
from support.residual_networks import Residual, divergence, images, settle_moments, sure


@pytest.fixture(scope="module")
def model():
    return sure()


IMAGES = images()


def without(model, *numbers):
    network = sec.trace(model, IMAGES[:1])
    cut = network.cut_of_blocks([f"blocks.{n}" for n in numbers])
    return sec.apply(model, cut, IMAGES[:1], network=network)


def test_the_block_whose_removal_changes_the_outputs_least_is_removed(model):
    pruned = sec.prune(model, IMAGES[:1], depth=1, calibration=IMAGES, repair=False)
    losses = [divergence(without(model, n), model, IMAGES) for n in range(4)]
    assert pruned.blocks[0].name == f"blocks.{int(np.argmin(losses))}"
    judged = pruned.report.fidelity.fidelity.distance
    assert judged == pytest.approx(pruned.blocks[0].loss)


def test_the_second_block_is_chosen_without_the_first(model):
    order = [b.name for b in sec.prune(model, IMAGES[:1], depth=0.5, calibration=IMAGES).blocks]
    first = int(order[0].rpartition(".")[2])
    rest = [n for n in range(4) if n != first]
    losses = [divergence(without(model, first, n), model, IMAGES) for n in rest]
    assert order[1] == f"blocks.{rest[int(np.argmin(losses))]}"


def test_without_images_blocks_with_the_smallest_cosine_change_are_removed(model):
    network = sec.trace(model, IMAGES[:4])
    kept = dict(zip("abcd", network.blocks, strict=True))
    expected = min(kept.values(), key=lambda block: block.change).name
    pruned = sec.prune(model, IMAGES[:4], depth=0.25)
    assert [block.name for block in pruned.blocks] == [expected]
    with torch.no_grad():
        x = model.stem(IMAGES[:4])
        y = model.blocks[0](x)
    cosine = functional.cosine_similarity(x.flatten(), y.flatten(), 0).item()
    assert network.blocks[0].change == pytest.approx(1 - cosine, abs=1e-4)


def test_a_budget_is_of_the_dense_model(model):
    whole = sec.trace(model, IMAGES[:1]).macs()
    pruned = sec.prune(model, IMAGES[:1], sec.Budget(macs=0.5), depth=1)
    assert 0.4 * whole < sec.trace(pruned.model, IMAGES[:1]).macs() <= 0.5 * whole
    assert pruned.cut == pruned.report.cut
    assert len(pruned.cut.blocks) == 1
    assert pruned.cut.channels


def test_invalid_depths_are_refused(model):
    for depth in (0.01, 5, 2.5):
        with pytest.raises(sec.BudgetError, match="4 blocks"):
            sec.prune(model, IMAGES[:1], depth=depth)
    with pytest.raises(sec.BudgetError, match="beside depth"):
        sec.prune(model, IMAGES[:1], sec.Budget(latency=0.5), depth=1)
    plain = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    with pytest.raises(sec.BudgetError, match="found none"):
        sec.prune(plain, torch.rand(1, 3), depth=0.5)


def test_a_study_goes_on_from_fewer_blocks(model, tmp_path):
    small = sec.prune(model, IMAGES[:1], depth=2, calibration=IMAGES).model
    data = IMAGES[:64], torch.arange(64) % 4
    result = sec.iterate(
        small, data, data, step=0.25,
        training=sec.Training(fine_tune_batches=2, batch_size=16),
        stop=sec.Stop(rounds=1, tolerance=None), directory=tmp_path / "study",
    )  # fmt: skip
    assert len(sec.report_of(result.model).cut.blocks) == 2
    assert sec.report_of(result.model).cut.channels
    sec.save(result.model, tmp_path / "small.safetensors")
    loaded = sec.load(settle_moments(Residual()), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGES), result.model.eval()(IMAGES))


def whispering(model, number, factor=1e-3):
    """The model with a block whose branch hardly says anything."""
    quiet = copy.deepcopy(model)
    quiet.blocks[number].bn2.weight.data.mul_(factor)
    quiet.blocks[number].bn2.bias.data.mul_(factor)
    return quiet


def test_a_block_that_adds_nothing_is_removed_before_channels(model):
    quiet = whispering(model, 2)
    budget = sec.Budget(macs=0.5)
    both = sec.prune(quiet, IMAGES[:1], budget, depth=True, calibration=IMAGES, floor=0.5)
    assert [block.name for block in both.blocks] == ["blocks.2"]
    assert both.blocks[0].loss < 1e-6
    assert both.report.cut.blocks[0].owner == "blocks.2"
    assert both.cut.channels
    assert sec.trace(both.model, IMAGES[:1]).macs() <= 0.5 * sec.trace(quiet, IMAGES[:1]).macs()
    narrow = sec.prune(quiet, IMAGES[:1], budget, calibration=IMAGES, floor=0.5)
    lost = [divergence(one.model, quiet, IMAGES) for one in (both, narrow)]
    assert lost[0] < 0.1 * lost[1]


def test_blocks_and_widths_are_repaired_in_one_walk(model):
    network = sec.trace(model, IMAGES[:1])
    channels = {group.name: range(len(group) // 4) for group in network.groups}
    cut = network.cut(channels, ["blocks.1", "blocks.2"])
    small = sec.apply(model, cut, IMAGES[:1], network=network)
    repaired = sec.repair(small, model, IMAGES)
    fresh = torch.rand(256, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    assert divergence(repaired, model, fresh) < 0.3 * divergence(small, model, fresh)
    names = {layer.weight for layer in sec.report_of(repaired).fidelity.layers}
    assert "blocks.1.skip.weight" in names
    assert "blocks.3.conv2.weight" in names
    assert not any(name.startswith(("blocks.1.conv", "blocks.2.")) for name in names)


def test_blocks_and_widths_are_one_cut_on_disk(model, tmp_path):
    network = sec.trace(model, IMAGES[:1])
    channels = {group.name: range(len(group) // 3) for group in network.groups}
    cut = network.cut(channels, ["blocks.1", "blocks.2"])
    assert not any(name.startswith("blocks.2.") for name in (*cut.tensors, *cut.channels))
    assert "blocks.1.skip.weight" in cut.tensors  # its projection stays, and is cut
    small = sec.apply(model, sec.Cut.from_json(cut.to_json()), IMAGES[:1], proof="independent")
    assert sec.report_of(small).proof.blocks.independent is not None
    first = sec.apply(model, network.cut_of_blocks(["blocks.1", "blocks.2"]), IMAGES[:1])
    left = sec.trace(first, IMAGES[:1])
    in_turn = sec.apply(first, left.cut_like(cut.without_blocks()), IMAGES[:1])
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(settle_moments(Residual()), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(IMAGES), in_turn.eval()(IMAGES))
        torch.testing.assert_close(loaded(IMAGES), small.eval()(IMAGES))


def test_what_blocks_beside_widths_need(model):
    budget = sec.Budget(macs=0.5)
    with pytest.raises(sec.DataError, match="depth=True: expected calibration images"):
        sec.prune(model, IMAGES[:1], budget, depth=True)
    with pytest.raises(sec.BudgetError, match="received scope as well"):
        sec.prune(model, IMAGES[:1], budget, depth=True, calibration=IMAGES, scope="network")
    plain = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    rows = torch.rand(64, 3)
    with pytest.raises(sec.BudgetError, match="found none"):
        sec.prune(plain, rows[:1], budget, depth=True, calibration=rows)
