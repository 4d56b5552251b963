"""Residual blocks are found, removed, proven and saved."""

import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchvision
from support.residual_networks import Residual, settle_moments


@pytest.fixture
def model():
    torch.manual_seed(0)
    return settle_moments(Residual())


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_blocks_are_found_by_what_they_do(model):
    network = sec.trace(model, IMAGES)
    assert [block.name for block in network.blocks] == [f"blocks.{n}" for n in range(4)]
    assert [block.cut.keeps for block in network.blocks] == [(), ("skip",), (), ()]
    first = network.blocks[0]
    assert first.params == sum(p.numel() for p in model.blocks[0].parameters())
    assert first.macs == 2 * 4 * 64 * 8 * 8 * 9
    assert "blocks.1" in network.explain_blocks()
    assert "skip" in network.explain_blocks()


def test_blocks_then_channels_are_one_cut_on_disk_and_again(model, tmp_path):
    network = sec.trace(model, IMAGES)
    cut = network.cut_of_blocks(["blocks.0", "blocks.1"])
    left = sec.apply(model, cut, IMAGES)
    small = sec.prune(left, IMAGES, amount=0.3).model
    whole = sec.report_of(small).cut
    assert whole.since(cut).channels
    assert whole.before == network.cost()
    direct = sec.apply(model, sec.Cut.from_json(whole.to_json()), IMAGES, proof="independent")
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(settle_moments(Residual()), tmp_path / "small.safetensors")
    with torch.no_grad():
        expected = small.eval()(IMAGES)
        torch.testing.assert_close(direct.eval()(IMAGES), expected)
        torch.testing.assert_close(loaded.eval()(IMAGES), expected)
    assert sec.report_of(loaded).cut.blocks == cut.blocks
    assert sec.report_of(direct).proof.blocks.holds


def test_optimizer_state_of_removed_blocks_is_dropped(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGES).sum().backward()
    optimizer.step()
    cut = sec.trace(model, IMAGES).cut_of_blocks(["blocks.2"])
    small, carried = sec.apply(model, cut, IMAGES, optimizer=optimizer)
    held = [id(p) for group in carried.param_groups for p in group["params"]]
    assert held == [id(p) for p in small.parameters()]
    small(IMAGES).sum().backward()
    carried.step()


def test_names_of_no_block_are_refused_in_a_trace(model):
    network = sec.trace(model, IMAGES)
    with pytest.raises(sec.UnknownNameError, match="did you mean"):
        network.cut_of_blocks(["blocks.O"])
    with pytest.raises(sec.CutError, match="expected a block"):
        sec.apply(nn.Sequential(nn.Linear(3, 4)), network.cut_of_blocks(["blocks.0"]), IMAGES)
