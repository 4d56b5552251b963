"""How a round of a study is best trained: distillation, averaged weights, or neither.

    python benchmarks/loop.py --out runs/loop.jsonl                (digits: the demo's network)
    python benchmarks/loop.py --data fashion-mnist --small --out runs/loop-fashion.jsonl

A dense network is trained once a seed as the preset trains it, cut to each share of its parameters
and repaired as the loop does, and then fine-tuned in each way from the very same weights: evaluated
as often as the preset says, the best evaluation kept. What is chosen by is validation accuracy; the
test accuracy of that evaluation stands beside it. Rows that are in the file are not made again.
``--small`` takes half of the network's width, 10,000 images, and trains for a quarter as long.
"""

import argparse
import itertools
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import secateurs as sec
from secateurs.cli.presets import preset
from secateurs.pytorch import Learner
from secateurs.reconstruction.pruner import Request, curves_of, repair_after_
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Task
from secateurs.study.building import build_task
from secateurs.study.goals import Goals
from secateurs.study.rounds import plan_round_by_curves
from secateurs.study.training_schedule import TrainingSchedule, fine_tuning_rates

BATCHES_OF_IMAGES = 4


def task_of(name: str, small: bool = False) -> tuple[Task, dict]:
    """The task of a preset, and its options."""
    options = preset({"digits": "demo"}.get(name, name))
    if small:
        changes = {name: options[name] // 4 for name in ("train_batches", "fine_tune_batches")}
        options |= changes | {"width": options["width"] // 2, "limit": 10_000, "precision": "fp32"}
    model = {key: options[key] for key in ("through", "width", "stem") if key in options}
    data = {key: options[key] for key in ("validation", "limit") if key in options}
    return Task(
        model=options["model"], model_options=model, data=options["data"], data_options=data
    ), options


def training_of(options: dict, seed: int, **changes: object) -> sec.Training:
    """How the preset trains."""
    names = {"train_batches": "batches"}
    given = {names.get(key, key): value for key, value in options.items()}
    known = {key: value for key, value in given.items() if key in sec.Training.model_fields}
    return sec.Training(**known | {"seed": seed} | changes)


def no_tick() -> None:
    """Nobody watches."""


def train(learner: Learner, first: int, rates: np.ndarray, every: int, averaged: bool) -> tuple:
    """Train for these learning rates; (validation and test accuracy of the best, its values)."""
    best, kept = (-1.0, 0.0, 0.0), None
    for start in range(0, len(rates), every):
        some = rates[start : start + every].tolist()
        learner.train(first + start, some, no_tick)
        for swapped in (False, True)[: 1 + averaged]:
            options = {"averaged": True} if swapped else {}
            found = learner.evaluate("validation", no_tick, **options)
            if (found.accuracy, -found.loss) > best[:2]:
                test = learner.evaluate("test", no_tick, **options).accuracy
                best, kept = (found.accuracy, -found.loss, test), learner.snapshot()
    return best[0], best[2], kept


def cut_to(learner: Learner, share: float, seed: int) -> None:
    """Cut the learner's model to a share of its parameters in one round, and repair it."""
    network = learner.trace()
    images = learner.calibration(BATCHES_OF_IMAGES)
    curves, _ = curves_of(network, images, Request(seed=seed))
    goals = Goals.of(network, sec.Budget(params=share))
    pruning = Pruning(step=0.99)
    orders, losses = curves.orders, curves.losses
    cut = plan_round_by_curves(network, orders, losses, pruning, sec.Cut(), goals)
    learner.apply(cut, network)
    repair_after_(network, learner.model, cut, images, seed)


def rows_of(arguments: argparse.Namespace, seed: int, done: set) -> None:
    """All that is missing of a seed, a row at a time."""
    ways = list(itertools.product(arguments.shares, arguments.distillation, arguments.ema))
    if all((seed, *way) in done for way in ways):
        return
    task, options = task_of(arguments.data, arguments.small)
    model, sources = build_task(task, seed)
    data = sources.train, sources.validation, sources.test
    training = training_of(options, seed)
    dense = Learner(model, *data, training)
    schedule = TrainingSchedule(training, Pruning(), dense.batches_an_epoch)
    accuracy, test, kept = train(dense, 0, schedule.dense_rates, schedule.evaluate_every, False)
    dense.restore(kept)
    print(f"seed {seed}: dense {accuracy:.4f}, test {test:.4f}", flush=True)
    rates = fine_tuning_rates(training, dense.batches_an_epoch)
    for share in arguments.shares:
        dense.restore(kept)
        cut_to(dense, share, seed)
        cut = dense.snapshot()
        repaired = dense.evaluate("validation", no_tick).accuracy
        for distillation, ema in itertools.product(arguments.distillation, arguments.ema):
            if (seed, share, distillation, ema) in done:
                continue
            changes = {"distillation": distillation} | ({"ema": ema} if ema else {})
            one = Learner(model, *data, training_of(options, seed, **changes))
            one.restore(cut)
            if distillation:
                one.follow(kept)
            start = time.process_time()
            found, tested, _ = train(
                one, len(schedule.dense_rates), rates, schedule.evaluate_every, bool(ema)
            )
            row = {
                "seed": seed,
                "share": share,
                "distillation": distillation,
                "ema": ema,
                "validation": found,
                "test": tested,
                "repaired": repaired,
                "dense": accuracy,
                "dense_test": test,
                "cpu_seconds": round(time.process_time() - start, 1),
            }
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def table(rows: list[dict]) -> str:
    """Means over seeds: what is lost on validation data (on test data), in points."""
    shares = sorted({row["share"] for row in rows}, reverse=True)
    lines = ["| distillation | ema | " + " | ".join(f"{share:.0%}" for share in shares) + " |"]
    lines.append("|---" * (2 + len(shares)) + "|")
    for way in sorted({(row["distillation"], row["ema"]) for row in rows}):
        cells = []
        for share in shares:
            here = [
                row
                for row in rows
                if (row["distillation"], row["ema"]) == way and row["share"] == share
            ]
            lost = [100 * (row["validation"] - row["dense"]) for row in here]
            tested = [100 * (row["test"] - row["dense_test"]) for row in here]
            spread = f" ± {np.std(lost, ddof=1):.2f}" if len(lost) > 1 else ""
            cells.append(f"{np.mean(lost):+.2f}{spread} ({np.mean(tested):+.2f})")
        lines.append(f"| {way[0]:g} | {way[1]:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", choices=("digits", "fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/loop.jsonl"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.05, 0.03])
    parser.add_argument("--distillation", type=float, nargs="+", default=[0.0, 0.5, 0.9])
    parser.add_argument("--ema", type=float, nargs="+", default=[0.0])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    keys = "seed", "share", "distillation", "ema"
    done = {tuple(json.loads(line)[key] for key in keys) for line in lines}
    for seed in arguments.seeds:
        rows_of(arguments, seed, done)
    print(table([json.loads(line) for line in arguments.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
