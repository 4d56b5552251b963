"""A torchvision detector cut without data, and by images of what it computes.

    python benchmarks/detector.py

An FCOS with a small backbone learns to find drawn rectangles. It is then cut to shares of its MACs,
untrained: as a whole, without data; and its backbone and heads, calibrated on images without labels
(docs/howto/detector.md). Printed is the mean overlap of the best box with a rectangle, on other
images. Wants torchvision.
"""

import copy
import itertools
import time

import numpy as np
import torch
from torch import nn

import secateurs as sec
from support.torchvision_on_cpu import let_detectors_run

SIZE = 96


class Computes(nn.Module):
    """Everything but the choice of boxes, for a batch of images."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.head([self.backbone(images)])


def draw(count: int, seed: int) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Images of one or two rectangles of two colours, with their boxes."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        image = random.normal(0.4, 0.05, (3, SIZE, SIZE)).astype(np.float32)
        boxes, labels = [], []
        for _ in range(random.integers(1, 3)):
            (x, y), (w, h) = random.integers(0, 60, 2), random.integers(20, 36, 2)
            label = int(random.integers(1, 3))
            image[:, y : y + h, x : x + w] = 0.1
            image[label - 1, y : y + h, x : x + w] = 0.95
            boxes.append([x, y, min(x + w, SIZE - 1), min(y + h, SIZE - 1)])
            labels.append(label)
        target = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}
        found.append((torch.from_numpy(image), target))
    return found


def build() -> nn.Module:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    widths = (3, 16, 32, 48, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = widths[-1]
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    return FCOS(backbone, 3, anchor_generator=anchors, min_size=SIZE, max_size=SIZE)


def train_(model: nn.Module, examples: list, epochs: int, batch: int = 8) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(examples)).tolist()
        for start in range(0, len(order), batch):
            images, targets = zip(
                *(examples[at] for at in order[start : start + batch]), strict=True
            )
            loss = sum(model(list(images), [dict(one) for one in targets]).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


@torch.no_grad()
def overlap(model: nn.Module, examples: list) -> float:
    """Mean over the images of the most sure box's overlap with its best rectangle."""
    total = 0.0
    for image, target in examples:
        (found,) = model([image])
        if not len(found["boxes"]):
            continue
        best, real = found["boxes"][found["scores"].argmax()], target["boxes"]
        low, high = torch.maximum(best[:2], real[:, :2]), torch.minimum(best[2:], real[:, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        areas = (best[2:] - best[:2]).prod() + (real[:, 2:] - real[:, :2]).prod(1)
        total += float((shared / (areas - shared)).max())
    return total / len(examples)


def main() -> None:
    let_detectors_run()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learns, tests = draw(256, 1), draw(128, 2)
    detector = build()
    train_(detector, learns, 18)
    print(f"dense: {overlap(detector, tests):.3f}")
    images = torch.cat([detector.transform([image])[0].tensors for image, _ in learns])
    example = next([image] for image, _ in learns if len(detector([image])[0]["boxes"]))
    print("| of the MACs | without data | 256 images | CPU s |")
    print("|---|---|---|---|")
    for share in (0.6, 0.4, 0.25):
        budget = sec.Budget(macs=share)
        plain = sec.prune(detector, (example,), budget).model
        start = time.process_time()
        made = sec.prune(Computes(detector).eval(), images[:1], budget, calibration=images)
        seconds = time.process_time() - start
        small = copy.deepcopy(detector)
        small.backbone, small.head = made.model.backbone, made.model.head
        values = f"{overlap(plain, tests):.3f} | {overlap(small, tests):.3f} | {seconds:.0f}"
        print(f"| {share} | {values} |")


if __name__ == "__main__":
    main()
