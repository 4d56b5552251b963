"""Accuracy kept at a share of the MACs by Keras models, on Fashion-MNIST; the same in PyTorch.

    KERAS_BACKEND=torch python benchmarks/accuracy_keras.py run --dense runs/dense-keras
    python benchmarks/accuracy_keras.py write                     # writes docs/accuracy.md

One process, one thread; every row is written when it is known, and what is there is not made again.
The networks are trained by Keras; for comparison the same ones, with the same weights, are modules
of PyTorch. Images to calibrate on are drawn from the training images, without their labels; the
test images are only reported.
"""

import argparse
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import secateurs as sec
from secateurs.backends import repairing
from secateurs.data import load
from support.fashion_keras import NETWORKS, accuracy, images_of, in_pytorch, load_or_train
from support.rows import Rows
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BUDGETS = (0.5, 0.25, 0.1)
STEPS = 300
CHANGES = sec.Augmentation(flip=True, shift=2)


def run(options: argparse.Namespace) -> None:
    """Every network, framework and budget that is not in the file yet."""
    rows = Rows(options.rows)
    data = load("fashion-mnist", seed=0)
    test = images_of(data.test)
    for name in options.networks:
        model = load_or_train(name, 0, options.dense)
        backend = f"keras on {keras.backend.backend()}"
        models = {backend: model, "pytorch": in_pytorch(model)}
        for framework, dense in models.items():
            if options.only and options.only not in framework:
                continue
            key = {"network": name, "framework": framework, "images": options.images}
            if not rows.has(**key, share=1.0):
                rows.add(**key, share=1.0, raw=accuracy(dense, *test))
            for seed in options.seeds:
                _cut(rows, dense, data, test, {**key, "seed": seed})


def _cut(rows: Rows, dense, data, test, key: dict) -> None:
    order = np.random.default_rng(key["seed"]).permutation(len(data.train))
    images, _ = images_of(data.train, np.sort(order[: key["images"]]))
    if key["framework"] == "pytorch":
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    for share in BUDGETS:
        if rows.has(**key, share=share):
            continue
        start = time.process_time()
        budget = sec.Budget(macs=share)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruned = sec.prune(dense, images[:1], budget, calibration=images, seed=key["seed"])
            seconds = time.process_time() - start
            raw = sec.apply(dense, pruned.cut, images[:1])
            anew = _with_moments(dense, raw, images)
            start = time.process_time()
            distilled = _distil(pruned.model, dense, images, key["seed"])
            more = time.process_time() - start
        rows.add(
            **key,
            share=share,
            raw=accuracy(raw, *test),
            anew=accuracy(anew, *test),
            repaired=accuracy(pruned.model, *test),
            distilled=accuracy(distilled, *test),
            params=round(pruned.cut.after.params / pruned.cut.before.params, 3),
            seconds=round(seconds, 1),
            more=round(more, 1),
        )


def _with_moments(dense, raw, images):
    from secateurs.calibration.batches import CalibrationBatch

    framework = repairing(sec.trace(dense, images[:1]).source.framework)
    return framework.reestimate_moments(raw, [CalibrationBatch(images, None)]) or raw


def _distil(small, dense, images, seed):
    from secateurs.backends import backend_of
    from secateurs.calibration.batches import CalibrationBatch

    order = np.random.default_rng(seed).permutation(len(images))
    held, rest = np.split(order, [len(order) // 8])
    found = backend_of(small).distil(
        small,
        dense,
        [CalibrationBatch(images[rest], None)],
        steps=STEPS,
        held_out=[CalibrationBatch(images[held], None)],
        seed=seed,
        augmentation=CHANGES,
    )
    return found.model


def write(options: argparse.Namespace) -> None:
    """The table, out of the rows."""
    known = Rows(options.rows).known
    columns = ["", *(f"{100 * share:g} % of MACs" for share in BUDGETS), "CPU s"]
    steps = {
        "raw": "dropped only",
        "anew": "moments anew",
        "repaired": "repaired",
        "distilled": f"+ {STEPS} steps",
    }
    parts = []
    groups = sorted({(row["network"], row["images"]) for row in known})
    for network, images in groups:
        of_case = [row for row in known if (row["network"], row["images"]) == (network, images)]
        dense = next(row["raw"] for row in of_case if row["share"] == 1.0)
        seeds = sorted({row["seed"] for row in of_case if "seed" in row})
        lines = []
        for framework in sorted({row["framework"] for row in of_case}):
            mine = [row for row in of_case if row["framework"] == framework and row["share"] < 1]
            for step, label in steps.items():
                cells = [_cell([r[step] for r in mine if r["share"] == share]) for share in BUDGETS]
                lines.append([f"{framework}, {label}", *cells, _seconds(mine, step)])
        report = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        title = f"### {network}, dense {100 * dense:.2f} %; {images} unlabelled images, {report}"
        parts += [title, markdown(columns, lines)]
    put(PAGE, "keras", "\n\n".join(parts))


def _seconds(rows: list[dict], step: str) -> str:
    if step not in ("repaired", "distilled") or not rows:
        return ""
    found = [row["seconds"] if step == "repaired" else row["more"] for row in rows]
    return f"{min(found):.0f}-{max(found):.0f}"


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = f"{100 * np.mean(values):.2f}"
    spread = f" ({100 * min(values):.2f}-{100 * max(values):.2f})" if len(values) > 1 else ""
    return mean + spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=("run", "write"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--only", help="a framework")
    parser.add_argument("--dense", type=Path, default=Path("runs/dense-keras"))
    parser.add_argument("--rows", type=Path, default=Path("runs/accuracy_keras.jsonl"))
    options = parser.parse_args()
    {"run": run, "write": write}[options.command](options)


if __name__ == "__main__":
    main()
