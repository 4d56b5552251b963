"""Proofs on centre crops of large images, only where the crop proves as much."""

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.proof.comparison import prove
from secateurs.pytorch.proof.smaller_images import crop_images
from secateurs.pytorch.trace_model import source_of

X = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


class Other(nn.Module):
    """Uses a layer on large images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).relu()
        if x.shape[-1] > 100:
            y = self.b(y).relu()
        return self.out(y).mean((2, 3))


class Fixed(nn.Module):
    """Reads every pixel by a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 2, 3, 4, 1), nn.Linear(2 * 32 * 32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(x).relu().flatten(1))


def proof_of(model: nn.Module, x: torch.Tensor, layer: str) -> sec.Proof:
    proof = sec.report_of(sec.delete_channels(model, {layer: [0]}, x)).proof
    assert proof is not None
    assert proof.holds
    return proof


def test_large_images_are_cropped_and_the_proof_says_so() -> None:
    proof = proof_of(convolutions(), X, "0")
    assert proof.images == "64 x 64 of 128 x 128"
    assert "run on the centre 64 x 64 of 128 x 128 pixels" in str(proof)
    assert proof.scale > 0


@pytest.mark.parametrize(("model", "layer"), [(Other(), "b"), (Fixed(), "a")])
def test_what_does_something_else_on_smaller_ones_is_proven_on_the_full_ones(model, layer) -> None:
    assert proof_of(model.eval(), X, layer).images == ""


def test_small_images_and_small_maps_stay_as_they_are() -> None:
    assert proof_of(convolutions(), X[..., :32, :32], "0").images == ""
    deep = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(5)))
    network = sec.trace(deep, X)  # maps of 4 x 4 would be 2 x 2
    assert crop_images(X, source_of(network).operations) is None


@pytest.mark.parametrize("layer", ["0", "2", "6"])
def test_a_wrong_weight_anywhere_is_still_refused(layer: str) -> None:
    model = convolutions()
    network = sec.trace(model, X)
    cut = network.cut({"0": [0, 3], "2": [1]})
    small = sec.apply(model, cut, X, network=network)
    alive = network.alive(network.removed_by(cut))
    assert prove(network, small, alive, X).images
    with torch.no_grad():
        small.get_submodule(layer).weight.copy_(small.get_submodule(layer).weight.flip(1))
    with pytest.raises(sec.CutError, match="does not do what the dense one does"):
        prove(network, small, alive, X)
