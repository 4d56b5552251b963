"""Residual networks with each kind of block: identity, projection, neighbours."""

import torch
from torch import nn
from torch.nn import functional


class Basic(nn.Module):
    """A block whose skip goes through a layer, or on as it is."""

    def __init__(self, inputs, outputs, through=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if through else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        y += x if self.skip is None else self.skip(x)
        return torch.relu(y)


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(
            Basic(width, width), Basic(width, 12, through=True), Basic(12, 12), Basic(12, 12)
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def settle_moments(model):
    """With moments and scales of their own, as after training."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def sure(seed=0):
    """A small residual network whose answers differ from image to image."""
    torch.manual_seed(seed)
    model = settle_moments(Residual())
    model.head.weight.data.mul_(8)
    return model


def images(number=192, seed=5):
    return torch.rand(number, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def divergence(small, model, images):
    """KL of the small model's classes from the model's."""
    with torch.no_grad():
        right, answer = model(images).log_softmax(1), small.eval()(images).log_softmax(1)
    return functional.kl_div(answer, right, log_target=True, reduction="batchmean").item()
