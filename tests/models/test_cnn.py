"""The vanilla CNN."""

import pytest
import torch

from secateurs.errors import ModelError
from secateurs.models import vanilla_cnn


def test_parameters_counted_by_hand() -> None:
    model = vanilla_cnn(classes=10, in_channels=3, size=64, widths=(32, 64, 128), hidden=100)
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128
    dense = (128 * 8 * 8 + 1) * 100 + (100 + 1) * 10
    assert sum(p.numel() for p in model.parameters()) == convolutions + dense
    assert dense > 0.8 * (convolutions + dense)


@pytest.mark.parametrize(
    ("size", "widths"), [(64, [32, 64, 128, 256]), (28, [32, 64, 128]), (8, [32, 64]), (2, [32])]
)
def test_takes_as_many_blocks_as_the_image_allows(size: int, widths: list[int]) -> None:
    model = vanilla_cnn(in_channels=1, size=size)
    assert [block.conv.out_channels for block in model.blocks] == widths
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_odd_sizes() -> None:
    model = vanilla_cnn(size=29, widths=(4, 4, 4))
    assert model(torch.zeros(1, 3, 29, 29)).shape == (1, 10)


def test_too_many_blocks() -> None:
    with pytest.raises(ModelError, match=r"expected 1 to 3 widths for images of 8 x 8.*received 4"):
        vanilla_cnn(size=8, widths=(8, 8, 8, 8))
    with pytest.raises(ModelError, match="positive"):
        vanilla_cnn(hidden=0)
