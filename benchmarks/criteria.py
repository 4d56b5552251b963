"""Every criterion at the same budgets, with Torch-Pruning's own beside them in the same run.

    python benchmarks/criteria.py --directory runs/criteria            # goes on where it was killed
    python benchmarks/criteria.py --directory runs/criteria --write    # writes docs/results.md

A ResNet-18 is trained on Fashion-MNIST, once a seed. Every strategy then removes 25, 50, 75 and
90 % of its parameters in one shot, and the models are trained again: the same images in the same
order, the same learning rates. Accuracies are of the 10,000 test images, before and after that
training; nothing is chosen by them.

``--size full`` is the same with the images, widths and batches that a GPU makes affordable.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from secateurs.comparison import (
    Comparison,
    ComparisonCallback,
    DenseResult,
    JobRunner,
    Outcome,
    Results,
    SerialExecutor,
    learner_factory,
    run_comparison,
)
from secateurs.criteria import CRITERIA
from secateurs.settings.study import Task
from secateurs.settings.training import Training
from support.tables import markdown, put
from support.torch_pruning import PRUNERS

DOCS = Path(__file__).parent.parent / "docs"
FIGURES = ("accuracy-removed", "accuracy-size", "norms")

# Within a group these rank as l1 and l2 do: only the whole network shows what they are for.
ACROSS_ONLY = ("l1_mean", "lamp")
# In units of the loss, so made to be compared across layers: both ways.
ACROSS_TOO = ("taylor", "fisher", "obd", "oracle")

SIZES = {
    "small": {
        "task": Task(
            model="resnet18",
            model_options={"width": 12, "through": False, "stem": "small-stride2"},
            data="fashion-mnist",
            data_options={"limit": 8000, "validation": 0.05, "seed": 0},
            by_name=True,
        ),
        "training": Training(
            batches=625,
            fine_tune_batches=94,
            batch_size=128,
            learning_rate=0.1,
            fine_tune_learning_rate=0.05,
            flip=True,
        ),
    },
    "full": {
        "task": Task(
            model="resnet18",
            model_options={"width": 64, "through": False, "stem": "small"},
            data="fashion-mnist",
            data_options={"validation": 0.05, "seed": 0},
            by_name=True,
        ),
        "training": Training(
            batches=13_000,
            fine_tune_batches=4450,
            batch_size=128,
            learning_rate=0.1,
            fine_tune_learning_rate=0.05,
            flip=True,
            shift=2,
        ),
    },
}


def strategies() -> tuple[str, ...]:
    within = [name for name in CRITERIA if name not in ACROSS_ONLY]
    across = [f"{name}@network" for name in (*ACROSS_ONLY, *ACROSS_TOO)]
    return (*within, *across, "auto", *PRUNERS)


class Printed(ComparisonCallback):
    """A line a job."""

    def begin(self, jobs: int, done: int) -> None:
        self.jobs, self.done, self.start = jobs, done, time.monotonic()

    def trained(self, dense: DenseResult) -> None:
        self._say(f"dense, seed {dense.seed}: {100 * dense.accuracy:.2f} % in {dense.seconds} s")

    def finished(self, outcome: Outcome) -> None:
        self.done += 1
        if outcome.failure:
            self._say(f"{outcome.job.name}: {outcome.failure}")
            return
        self._say(
            f"{outcome.job.name}: {100 * outcome.before:.1f} -> {100 * outcome.accuracy:.1f} % "
            f"({outcome.params} parameters; {outcome.seconds_to_choose:.1f} s to choose, "
            f"{outcome.seconds_to_train:.1f} s to train)"
        )

    def _say(self, text: str) -> None:
        minutes = (time.monotonic() - self.start) / 60
        print(f"[{self.done}/{self.jobs}, {minutes:.1f} min] {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("runs/criteria"))
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", help="some of them, with commas between")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/results.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    comparison = Comparison(
        **SIZES[arguments.size],
        strategies=tuple(arguments.strategies.split(",")) if arguments.strategies else strategies(),
        amounts=(0.25, 0.5, 0.75, 0.9),
        seeds=arguments.seeds,
        floor=0.1,
        calibration_batches=4,
        judge_on="test",
    )
    contest = JobRunner(comparison, learner_factory(comparison), PRUNERS)
    results = run_comparison(
        comparison,
        arguments.directory,
        SerialExecutor(contest),
        pruners=PRUNERS,
        callback=Printed(),
    )
    print(results)
    if arguments.write:
        write(results, arguments.directory)


def write(results: Results, directory: Path) -> None:
    """Put tables and figures into docs/results.md."""
    for name in FIGURES:
        place = DOCS / "figures" / f"criteria-{name}.svg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / f"{name}.svg", place)
    seeds = len(results.denses)
    dense = ", ".join(f"{100 * one.accuracy:.1f} %" for one in results.denses)
    report = [
        f"{seeds} seeds; the dense models have {results.denses[0].params:,} parameters and put "
        f"{dense} of the test images into the right class. After fine-tuning, in % of the test "
        "images, mean and standard deviation; in italics what is not above `random` by more than "
        "both deviations together:",
        table(results.summary, "accuracy"),
        "Right after the cut, before any fine-tuning:",
        table(results.summary, "before"),
        "MACs removed, in %: the same parameters are not the same work.",
        macs_table(results.summary),
    ]
    put(DOCS / "results.md", "criteria", "\n\n".join(report))


def table(summary: list[dict], key: str) -> str:
    """A strategy a row, the best on average first."""
    cells = {(one["strategy"], one["amount"]): one for one in summary}
    amounts = sorted({amount for _, amount in cells})
    names = {name for name, _ in cells}
    level = {name: np.mean([cells[name, a]["accuracy"] for a in amounts]) for name in names}
    rows = []
    for name in sorted(names, key=lambda name: -level[name]):
        row_cells = [cells[name, amount] for amount in amounts]
        row = [f"`{name}`"]
        for one in row_cells:
            control = cells["random", one["amount"]]
            gap = one[key] - control[key]
            clear = gap > np.hypot(one[f"{key}_std"], control[f"{key}_std"])
            shown = f"{100 * one[key]:.1f} ± {100 * one[f'{key}_std']:.1f}"
            row.append(shown if clear or name == "random" else f"*{shown}*")
        rows.append(row)
    return markdown(["strategy", *(f"{100 * amount:g} %" for amount in amounts)], rows)


def macs_table(summary: list[dict]) -> str:
    """What share of the MACs went; strategies that take the same share are one row."""
    amounts = sorted({one["amount"] for one in summary})
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(one["strategy"] for one in summary):
        removed = {one["amount"]: one["macs_removed"] for one in summary if one["strategy"] == name}
        rows.setdefault(tuple(f"{100 * removed[a]:.0f}" for a in amounts), []).append(f"`{name}`")
    cells = [[", ".join(names), *shares] for shares, names in rows.items()]
    return markdown(["strategies", *(f"{100 * amount:g} %" for amount in amounts)], cells)


if __name__ == "__main__":
    main()
