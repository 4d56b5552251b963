"""The experiment of "Pruning ResNets for Fun and Profit": train, then prune 5 % at a time.

    python examples/vehicle_colours/vehicle_colours.py                  # vehicles in eight colours
    python examples/vehicle_colours/vehicle_colours.py fashion-mnist    # the same on Fashion-MNIST

Goes on where it was interrupted. Draws the document's figures 6, 7 and 8, measures the result
against the dense model once more, and prints both headlines side by side.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from secateurs import History, cli, data, load, models, report
from secateurs.cli.models import with_stem
from secateurs.measurement import speed
from secateurs.study.directory import Study

DOCUMENT = {"removed": 0.791, "faster": 1.65}
FIGURES = {
    "accuracy": report.accuracy_over_batches,
    "size": report.relative_size,
    "speed": report.images_per_second,
}


def draw(history: History, preset: str, folder: Path) -> None:
    """Write the three figures as PNG."""
    for name, figure in FIGURES.items():
        _, svg = report.save(figure(history), folder, f"{preset}-{name}")
        svg.unlink()


def speed_of(study: Study) -> speed.Ratio:
    """How many times as fast the result is as the dense model, pass by pass; one thread."""
    torch.set_num_threads(1)
    task = study.configuration.task
    loaded = data.load(task.data, **task.data_options)
    channels, size, _ = loaded.shape
    options = {"classes": len(loaded.classes), "in_channels": channels} | task.model_options
    dense = models.build(task.model, **with_stem(task.model, options, size))
    batch = study.configuration.training.batch_size
    images = torch.from_numpy(loaded.test.batch(slice(0, batch))[0])

    def runner(model: nn.Module):
        model.eval()

        def run() -> torch.Tensor:
            with torch.inference_mode():
                return model(images)

        return run

    runs = {
        "dense": runner(load(dense, study.directory / "snapshots" / "dense.safetensors")),
        "pruned": runner(load(dense, study.best)),
    }
    speeds = speed.throughput(runs, batch, repeats=21, seconds=0.3)
    return speed.ratio(speeds["pruned"], speeds["dense"])


def table(history: History, speed: speed.Ratio) -> str:
    """Both headlines, side by side, as Markdown."""
    found = report.summarise(history)
    stop = found.stop or {}

    def points(name: str, dense: str) -> str:
        change = 100 * (stop[name] - stop[dense])
        return f"{stop[dense]:.1%} -> {stop[name]:.1%} ({change:+.1f} points)"

    rows = (
        ("", "the document", "here"),
        ("---", "---", "---"),
        ("rounds of 5%", "not given", f"{found.best.number}"),
        (
            "parameters removed",
            f"{DOCUMENT['removed']:.1%}",
            f"**{found.params_removed:.1%}**",
        ),
        ("MACs removed", "not given", f"{found.macs_removed:.1%}"),
        (
            "images a second",
            f"+{DOCUMENT['faster'] - 1:.0%}",
            f"**+{speed.median - 1:.0%}** (quartiles +{speed.low - 1:.0%} to "
            f"+{speed.high - 1:.0%})",
        ),
        ("validation accuracy", "at least 95%, as before", points("accuracy", "dense_accuracy")),
        ("test accuracy", "not given", points("test_accuracy", "dense_test_accuracy")),
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows).replace("%", " %")


def main() -> int:
    """Run the study, or what is left of it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="vehicle-colours")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    directory = arguments.runs / arguments.preset
    code = cli.main(["run", "--preset", arguments.preset, "--directory", str(directory)])
    if code:
        return code
    study = Study.open(directory)
    draw(study.history, arguments.preset, arguments.figures)
    print(f"\n{table(study.history, speed_of(study))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
