"""Fewer blocks against narrower layers, at equal multiply-accumulates and with their times.

    python benchmarks/depth.py --dense runs/dense

A ResNet-18 of width 16 that was trained on Fashion-MNIST (``benchmarks/accuracy.py train``), 512
training images without labels to choose and repair by, nothing trained afterwards. For each number
of blocks that go, the same multiply-accumulates by widths alone; both proven, both repaired; test
accuracy and the ratio of times beside the dense model, pass by pass.
"""

import argparse
import warnings
from pathlib import Path

import torch

import secateurs as sec
from secateurs.measurement.timing import compare_times
from support.fashion import accuracy, fashion, load_or_train


def ratio(dense: torch.nn.Module, small: torch.nn.Module, images: torch.Tensor) -> float:
    """The time of a pass over these images, as a share of the dense model's."""

    def runs(model: torch.nn.Module):
        model.eval()

        def run() -> None:
            with torch.inference_mode():
                model(images)

        return run

    return compare_times({"dense": runs(dense), "small": runs(small)}, "dense")["small"].ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=Path, default=Path("runs/dense"))
    parser.add_argument("--network", default="resnet18_w16")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 3, 4])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = fashion()
    model = load_or_train(arguments.network, 0, arguments.dense)
    images = data.train.batch(slice(0, 512))[0]
    example = torch.from_numpy(images[:1])
    timed = torch.from_numpy(images[:64])
    dense = sec.trace(model, example).macs()
    print(f"dense: accuracy {accuracy(model, data.test):.4f}")
    columns = "blocks removed", "MACs left", "depth", "unrepaired", "time", "widths", "time"
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    for count in arguments.blocks:
        plain = sec.prune(model, example, depth=count, calibration=images, repair=False)
        fewer = sec.prune(model, example, depth=count, calibration=images)
        left = sec.trace(fewer.model, example).macs() / dense
        narrow = sec.prune(model, example, sec.Budget(macs=left), calibration=images)
        names = ", ".join(block.name for block in fewer.blocks)
        print(
            f"| {count}: {names} | {left:.1%} | {accuracy(fewer.model, data.test):.4f} | "
            f"{accuracy(plain.model, data.test):.4f} | {ratio(model, fewer.model, timed):.2f} | "
            f"{accuracy(narrow.model, data.test):.4f} | {ratio(model, narrow.model, timed):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
