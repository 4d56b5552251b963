"""The vanilla CNN: convolutions and pools, then dense layers that hold most of the weights.

Source: the model of the article on pruning Keras networks by rank, prune, retrain (imagenette).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateurs.arguments import takes_as_annotated
from secateurs.errors import ModelError

MOST_BLOCKS = 4
SMALLEST_MAP = 2


class VanillaCNN(nn.Module):
    """Blocks of convolution, ReLU and max pool; flatten; a dense layer; the classes.

    Args:
        classes: Outputs.
        in_channels: Channels of the images; 3 for colour, 1 for grey.
        size: Height and width of the images in pixels; the dense layer's inputs depend on it.
        widths: Filters of each block; each halves the image.
        hidden: Neurons of the dense layer.

    Raises:
        ModelError: there are more blocks than the image can be halved, or a number is not positive.
    """

    @takes_as_annotated(ModelError)
    def __init__(
        self, classes: int, in_channels: int, size: int, widths: Sequence[int], hidden: int
    ) -> None:
        super().__init__()
        for number in (classes, in_channels, size, hidden, *widths):
            if number < 1:
                raise ModelError(f"vanilla_cnn: expected positive whole numbers; received {number}")
        left = size >> len(widths)
        if not widths or left < 1:
            raise ModelError(
                f"vanilla_cnn: expected 1 to {size.bit_length() - 1} widths for images of {size} "
                f"x {size} pixels, each of which halves the image; received {len(widths)}: "
                f"{tuple(widths)}"
            )
        blocks: list[nn.Module] = []
        for inputs, outputs in zip((in_channels, *widths), widths, strict=False):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                conv=nn.Conv2d(inputs, outputs, 3, padding=1),
                act=nn.ReLU(inplace=True),
                pool=nn.MaxPool2d(2),
            )
            blocks.append(nn.Sequential(layers))
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Linear(widths[-1] * left * left, hidden)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(hidden, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, size, size) in, scores of shape (N, classes) out."""
        x = torch.flatten(self.blocks(x), 1)
        scores: Tensor = self.head(self.act(self.hidden(x)))
        return scores


@takes_as_annotated(ModelError)
def vanilla_cnn(
    classes: int = 10,
    *,
    in_channels: int = 3,
    size: int = 64,
    widths: Sequence[int] | None = None,
    hidden: int = 256,
    width: int = 32,
) -> VanillaCNN:
    """A vanilla CNN for images of a given size; see ``VanillaCNN``.

    Args:
        classes: Outputs.
        in_channels: Channels of the images.
        size: Height and width of the images in pixels.
        widths: Filters of each block. None takes ``width``, twice it, four times it ...: four
            blocks, or as many as leave the dense layer an image of at least 2 x 2 pixels.
        hidden: Neurons of the dense layer.
        width: Filters of the first block where ``widths`` is None.

    Raises:
        ModelError: there are more blocks than the image can be halved, or a number is not positive.
    """
    if widths is None:
        halvings = max(1, (max(size, 1) // SMALLEST_MAP).bit_length() - 1)
        widths = [width * 2**number for number in range(min(MOST_BLOCKS, halvings))]
    return VanillaCNN(classes, in_channels, size, widths, hidden)
