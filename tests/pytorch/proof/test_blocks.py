"""Cuts of whole blocks are proven against the dense model with zeros for their branches."""

import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchvision
from secateurs.pytorch.surgery.bypass import Bypass
from support.residual_networks import Residual, settle_moments


@pytest.fixture
def model():
    torch.manual_seed(0)
    return settle_moments(Residual())


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def by_hand(model, x, gone):
    """The dense model's blocks one by one, without the branches of those that went."""
    x = model.stem(x)
    for number, block in enumerate(model.blocks):
        skip = nn.Identity() if block.skip is None else block.skip
        x = torch.relu(skip(x)) if number in gone else block(x)
    return model.head(x.mean((2, 3)))


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1), (2, 3), (1, 3)])
def test_what_is_left_is_the_skip(model, gone):
    network = sec.trace(model, IMAGES)
    cut = network.cut_of_blocks([f"blocks.{n}" for n in gone])
    small = sec.apply(model, cut, IMAGES, network=network, proof="independent")
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(IMAGES), by_hand(model, IMAGES, gone))
    proof = sec.report_of(small).proof
    assert proof.holds
    assert not proof.inexact
    assert proof.independent.max_difference < 1e-5
    assert sec.trace(small, IMAGES).cost() == cut.after
    assert len(sec.trace(model, IMAGES).blocks) == 4  # the user's is as it was


def test_a_bypass_that_is_wrong_is_refused(model, monkeypatch):
    network = sec.trace(model, IMAGES)
    cut = network.cut_of_blocks(["blocks.2"])
    right = Bypass.forward
    monkeypatch.setattr(Bypass, "forward", lambda self, x: 1.01 * right(self, x))
    with pytest.raises(sec.CutError, match="does not do what the dense one does"):
        sec.apply(model, cut, IMAGES)


class Tokens(nn.Module):
    """Blocks on 64 tokens of 256 channels, before a head that is zero."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Feedforward() for _ in range(2))
        self.act, self.head = nn.Tanh(), nn.Linear(256, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.act(x))


class Feedforward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(256, 8), nn.Linear(8, 256)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def test_an_error_in_a_single_channel_of_the_tokens_is_found(monkeypatch):
    torch.manual_seed(0)
    model, x = Tokens().eval(), torch.randn(1, 64, 256)
    network = sec.trace(model, x)
    cut = network.cut_of_blocks(["blocks.1"])
    assert sec.report_of(sec.apply(model, cut, x)).proof.holds
    right = Bypass.forward

    def err(self, x):
        found = right(self, x).clone()
        found[..., 5] *= 1.5
        return found

    monkeypatch.setattr(Bypass, "forward", err)
    with pytest.raises(sec.CutError, match="does not do what the dense one does"):
        sec.apply(model, cut, x)
