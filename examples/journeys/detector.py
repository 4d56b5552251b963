"""A detection engineer: a grid of boxes, a loss of several parts, a metric in boxes."""

import itertools

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs import data

SIZE, CELLS = 32, 4


class Detector(nn.Module):
    """For each of 4 x 4 cells: whether a digit's middle is in it, where, and how large."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32)
        self.backbone = nn.Sequential(
            *(
                layer
                for before, after in itertools.pairwise(widths)
                for layer in (
                    nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU()
                )
            )
        )  # fmt: skip
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.head(self.backbone(images))
        return {"scores": found[:, 0], "boxes": found[:, 1:].sigmoid()}


def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Real digits on noise, one an image; and (x, y, width) of each, in shares of the image."""
    chance = np.random.default_rng(seed)
    digits = data.renormalise(data.load("digits"), "none").train
    images = chance.uniform(0, 0.3, (number, 1, SIZE, SIZE)).astype(np.float32)
    places = np.zeros((number, 3), np.float32)
    for row, image in enumerate(images):
        (digit,), _ = digits.batch([int(chance.integers(len(digits)))])
        times = int(chance.integers(1, 3))
        large = digit[0].repeat(times, 0).repeat(times, 1)
        x, y = chance.integers(0, SIZE - len(large), 2)
        image[0, y : y + len(large), x : x + len(large)] += large
        places[row] = (x + len(large) / 2, y + len(large) / 2, len(large))
    return images, places / SIZE


def losses(outputs: dict[str, torch.Tensor], places: torch.Tensor) -> dict[str, torch.Tensor]:
    """As detectors have them: one entry for each part, image by image."""
    cells = (places[:, :2] * CELLS).long().clamp(max=CELLS - 1)
    target = torch.zeros_like(outputs["scores"])
    rows = torch.arange(len(places))
    target[rows, cells[:, 1], cells[:, 0]] = 1
    found = outputs["boxes"][rows, :, cells[:, 1], cells[:, 0]][:, :3]
    wanted = torch.cat([places[:, :2] * CELLS - cells, places[:, 2:]], 1)
    score = nn.functional.binary_cross_entropy_with_logits(
        outputs["scores"], target, reduction="none"
    )
    return {"score": score.flatten(1).mean(1), "box": (found - wanted).abs().mean(1)}


def loss(outputs: dict[str, torch.Tensor], places: torch.Tensor) -> torch.Tensor:
    """Their sum, image by image."""
    parts = losses(outputs, places)
    return 5 * parts["score"] + parts["box"]


def overlap(outputs: dict[str, torch.Tensor], places: torch.Tensor) -> torch.Tensor:
    """Intersection over union of the best box of each image, and the digit."""
    best = outputs["scores"].flatten(1).argmax(1)
    rows = torch.arange(len(best))
    found = outputs["boxes"].flatten(2)[rows, :, best]
    corner = torch.stack([best % CELLS, best // CELLS], 1)
    squares = [((corner + found[:, :2]) / CELLS, found[:, 2:3]), (places[:, :2], places[:, 2:])]
    low = torch.stack([middle - width / 2 for middle, width in squares]).amax(0)
    high = torch.stack([middle + width / 2 for middle, width in squares]).amin(0)
    inter = (high - low).clamp(min=0).prod(1)
    areas = [width[:, 0] ** 2 for _, width in squares]
    return inter / (areas[0] + areas[1] - inter)


def main() -> None:
    """Which layers can spare something, then train, cut and train on, by the user's own metric."""
    train, validation = draw(600, 0), draw(200, 1)
    task = sec.LearningTask("digit detection", loss=loss, metric=overlap, metric_name="overlap",
                            is_share=True)  # fmt: skip
    result = sec.iterate(
        Detector(), train, validation, task=task, criterion="taylor", step=0.3,
        training=sec.Training(batches=150, fine_tune_batches=60, batch_size=50, optimizer="adamw",
                              learning_rate=0.01),
        stop=sec.Stop(rounds=1, tolerance=None), measure_speed=False,
    )  # fmt: skip
    before, after = (record["value"] for record in (result.history.of("train")[0],
                                                    result.history.of("train")[-1]))  # fmt: skip
    print(f"{result.report.params_removed:.0%} of the parameters went; ", end="")
    print(f"overlap {before:.3f} -> {after:.3f}")
    network = sec.trace(result.model, torch.from_numpy(train[0][:1]))
    print(sec.sensitivity(network, validation, amounts=(0.25, 0.5), loss=loss, metric=overlap))


if __name__ == "__main__":
    main()
