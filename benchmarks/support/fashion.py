"""Small networks for Fashion-MNIST, trained once and kept.

Training depends on the network's name and the seed alone; after every epoch all of its state is
written, so that it goes on where it was stopped.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateurs.data import Data, load
from secateurs.models.resnet import ResNet, resnet18
from secateurs.training.feed import ALL, Augmentation, as_feed

BATCH = 128
RATE, MOMENTUM, DECAY, WARM = 0.1, 0.9, 5e-4, 0.2
CHANGES = Augmentation(flip=True)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: a 1x1 convolution that widens, a depthwise 3x3, a 1x1 that narrows."""

    def __init__(self, inputs: int, outputs: int, widen: int, stride: int) -> None:
        super().__init__()
        inner = inputs * widen
        self.skip = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if widen > 1:
            layers += [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()]
        layers += [
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.skip else y


def mobilenetv2() -> nn.Module:
    """A MobileNetV2 of a quarter of the width, for 28 x 28 pixels; 17 blocks become 10."""
    settings = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 24, 2, 1), (6, 40, 2, 2))
    layers: list[nn.Module] = [
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
    ]
    channels = 16
    for widen, width, blocks, stride in settings:
        for number in range(blocks):
            layers.append(InvertedResidual(channels, width, widen, stride if number == 0 else 1))
            channels = width
    layers += [nn.Conv2d(channels, 160, 1, bias=False), nn.BatchNorm2d(160), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10))


def vgg11() -> nn.Module:
    """VGG-11 with batch norm, a quarter of its width, and one linear layer after the pooling."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (16, 0, 32, 0, 64, 64, 0, 128, 128, 0, 128, 128):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def resnet18_w16() -> nn.Module:
    """ResNet-18 of width 16 with a 3x3 stem of stride two, as published otherwise."""
    return resnet18(classes=10, in_channels=1, width=16, stem="small-stride2", through=False)


def resnet20() -> nn.Module:
    """ResNet-20, three stages of three blocks of width 16, with a stem of stride two."""
    return ResNet(
        (3, 3, 3), classes=10, in_channels=1, width=16, stem="small-stride2", through=False
    )


@dataclass(frozen=True)
class Recipe:
    """How a dense network is made."""

    build: Callable[[], nn.Module]
    epochs: int = 8


NETWORKS = {
    "resnet18_w16": Recipe(resnet18_w16, epochs=10),
    "resnet20": Recipe(resnet20),
    "vgg11": Recipe(vgg11),
    "mobilenetv2": Recipe(mobilenetv2),
}


def fashion() -> Data:
    """55,000 images to train on, 5,000 to choose by, 10,000 to report."""
    return load("fashion-mnist", validation=1 / 12, seed=0)


def accuracy(model: nn.Module, split, size: int = 500) -> float:
    """Share of a split's images that are put into the right class."""
    model = model.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(split), size):
            images, labels = split.batch(slice(start, start + size))
            right += int((model(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    return right / len(split)


def load_or_train(name: str, seed: int, folder: Path) -> nn.Module:
    """A dense network, read from ``folder`` or trained and written there."""
    path = folder / f"fashion_{name}_seed{seed}.pt"
    recipe = NETWORKS[name]
    torch.manual_seed(seed)
    model = recipe.build()
    if not path.exists():
        train_(model, recipe, seed, path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def train_(model: nn.Module, recipe: Recipe, seed: int, path: Path) -> None:
    """Train in place and write the weights, and beside them how; goes on after a stop."""
    data = fashion()
    feed = as_feed(data.train, BATCH, seed, CHANGES)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=recipe.epochs * len(feed), pct_start=WARM
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    state = path.with_suffix(".part")
    first, spent = 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True, map_location=device)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        first, spent = kept["epoch"], kept["seconds"]
    for epoch in range(first, recipe.epochs):
        start = time.process_time()
        model.train()
        for batch in feed.shuffle(epoch, 0, ALL):
            images = torch.from_numpy(np.ascontiguousarray(batch.images)).to(device)
            loss = F.cross_entropy(model(images), torch.from_numpy(batch.labels).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        spent += time.process_time() - start
        _replace(
            state,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch + 1,
                "seconds": spent,
            },
        )
        print(f"{path.stem}: epoch {epoch + 1}, {spent:.0f} s of one core", flush=True)
    model.to("cpu", memory_format=torch.contiguous_format)
    how = {
        "epochs": recipe.epochs,
        "batch": BATCH,
        "optimizer": f"SGD, Nesterov momentum {MOMENTUM}, weight decay {DECAY}",
        "rate": f"one cycle to {RATE}, {WARM} of it warming up",
        "augmentation": "half of the images mirrored",
        "seed": seed,
        "training_images": len(data.train),
        "validation_accuracy": accuracy(model, data.validation),
        "test_accuracy": accuracy(model, data.test),
        "cpu_seconds": round(spent),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    path.with_suffix(".json").write_text(json.dumps(how, indent=1) + "\n")
    _replace(path, model.state_dict())
    state.unlink()


def _replace(path: Path, values) -> None:
    """Write beside, then rename: a stop leaves the old file whole."""
    new = path.with_suffix(".new")
    torch.save(values, new)
    new.replace(path)
