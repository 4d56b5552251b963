"""A torchvision detector cut without data, and with images.

    python benchmarks/detector.py [fcos | faster]

An FCOS, or a Faster R-CNN, with a small backbone learns to find drawn rectangles. It is then cut to
shares of its MACs, without training: without data, and calibrated on images without labels
(docs/howto/detector.md). Printed is the mean overlap of the best box with a rectangle, on other
images. Wants torchvision.
"""

import itertools
import sys
import time

import numpy as np
import torch
from torch import nn

import secateurs as sec
from support.torchvision_on_cpu import let_detectors_run

SIZE = 96


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


def build_backbone() -> nn.Module:
    widths = (3, 16, 32, 48, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = widths[-1]
    return backbone


def fcos() -> nn.Module:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((16,),), ((1.0,),))
    return FCOS(build_backbone(), 3, anchor_generator=anchors, min_size=SIZE, max_size=SIZE)


def faster() -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    few = {
        f"rpn_{when}_nms_top_n_{mode}": 32 for when in ("pre", "post") for mode in ("train", "test")
    }
    return FasterRCNN(
        build_backbone(),
        rpn_anchor_generator=AnchorGenerator(((24,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        box_head=TwoMLPHead(64 * 16, 128),
        box_predictor=FastRCNNPredictor(128, 3),
        box_batch_size_per_image=32,
        min_size=SIZE,
        max_size=SIZE,
        **few,
    )


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
    detector = {"fcos": fcos, "faster": faster}[sys.argv[1] if sys.argv[1:] else "fcos"]()
    train_(detector, learns, 18)
    print(f"dense: {overlap(detector, tests):.3f}")
    images = [image for image, _ in learns]
    example = next([image] for image, _ in learns if len(detector([image])[0]["boxes"]))
    print("| of the MACs | without data | 256 images | CPU s |")
    print("|---|---|---|---|")
    for share in (0.6, 0.4, 0.25):
        budget = sec.Budget(macs=share)
        plain = sec.prune(detector, (example,), budget).model
        start = time.process_time()
        made = sec.prune(detector, (example,), budget, calibration=images)
        seconds = time.process_time() - start
        values = f"{overlap(plain, tests):.3f} | {overlap(made.model, tests):.3f} | {seconds:.0f}"
        print(f"| {share} | {values} |")


if __name__ == "__main__":
    main()
