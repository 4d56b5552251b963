"""Accuracy at the same latency: a budget of time against the budget of MACs that takes as long.

    python benchmarks/accuracy.py train --networks resnet18_w16 --dense-seeds 0 1
    python benchmarks/latency_accuracy.py run --dense-seeds 0 1       # writes runs/...jsonl
    python benchmarks/latency_accuracy.py write                       # into docs/speed.md

A trained ResNet-18 of width 16 on Fashion-MNIST. ``latency`` is ``sec.prune`` with a budget of
time; ``macs`` is the cut by a budget of MACs alone, with the share of them looked for at which the
cut model takes as long in the same runtime (to 2 %). Both by the same calibration images, repaired
and then distilled alike. One process, one thread; a row is written when it is known.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.measurement.conditions import Conditions
from secateurs.planning.meeting import Timer
from secateurs.planning.profiling import profile_network
from secateurs.pytorch import distil
from secateurs.reconstruction.calibration import in_batches, join_batches
from secateurs.reconstruction.pruner import Pruner, Request
from support.fashion import accuracy, fashion, load_or_train
from support.rows import Rows
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
NEAR = 0.02
MIXED = sec.Augmentation(flip=True, shift=2, mix=0.5)


def measure(dense: int, seed: int, options: argparse.Namespace, rows: Rows) -> None:
    data = fashion()
    model = load_or_train(options.network, dense, options.dense)
    order = np.random.default_rng(seed).permutation(len(data.train))
    images, _ = data.train.batch(order[: options.images])
    network = sec.trace(model, torch.from_numpy(images[:1]))
    there = Conditions(runtime=options.runtime, threads=1, batch=options.batch)
    found = profile_network(network, there)
    timer = Timer(network, found)
    measure_share = timer.measure_in("latency")
    pruner = Pruner.of(model, network, images, Request(seed=seed))
    split = pruner.dense.calibration
    batches = in_batches(CalibrationBatch(join_batches([split.fit, split.choose]).images, None))

    def time_of(cut: sec.Cut) -> float:
        small = sec.apply(model, cut, images[:1], network=network, proof=False)
        return measure_share(small) / found.dense_ms

    def judge(small: torch.nn.Module) -> float:
        return round(100 * accuracy(small, data.test), 2)

    for share in options.shares:
        key = {"network": options.network, "dense": dense, "seed": seed, "latency": share}
        if rows.has(**key, way="macs", steps=options.steps[-1]):
            continue
        budget = sec.Budget(latency=share, runtime=options.runtime, threads=1, batch=options.batch)
        asked = sec.prune(model, images[:1], budget, calibration=images, seed=seed)
        time = time_of(asked.cut)
        cuts = {"latency": (asked.cut, time), "macs": as_fast(pruner, time_of, time)}
        for way, (cut, one) in cuts.items():
            small = pruner.make(cut)
            row = {"way": way, "share": one, "macs": network.macs(cut) / network.macs()}
            for steps in (0, *options.steps):
                better = small
                if steps:
                    better = distil(
                        small,
                        model,
                        batches,
                        steps=steps,
                        held_out=pruner.dense.judge,
                        seed=seed,
                        augmentation=MIXED,
                    ).model
                rows.add(**key, **row, steps=steps, accuracy=judge(better))


def as_fast(pruner: Pruner, time_of, time: float) -> tuple[sec.Cut, float]:
    """The cut by MACs alone that takes as long, and how long."""
    low, high, best = 0.02, 1.0, None
    for _ in range(12):
        share = (low + high) / 2
        cut = pruner.plan(sec.Budget(macs=share))
        now = time_of(cut)
        if best is None or abs(now - time) < abs(best[1] - time):
            best = cut, now
        if abs(now / time - 1) <= NEAR:
            break
        low, high = (share, high) if now < time else (low, share)
    return best


def table(rows: list[dict]) -> str:
    lines = []
    for share in sorted({row["latency"] for row in rows}, reverse=True):
        for steps in sorted({row["steps"] for row in rows}):
            of = [row for row in rows if row["latency"] == share and row["steps"] == steps]
            ways = {way: [r for r in of if r["way"] == way] for way in ("latency", "macs")}
            if not all(ways.values()):
                continue
            means = {
                way: {
                    name: statistics.mean(r[name] for r in found)
                    for name in ("accuracy", "share", "macs")
                }
                for way, found in ways.items()
            }
            pairs = {(r["dense"], r["seed"]): r["accuracy"] for r in ways["macs"]}
            gains = [
                r["accuracy"] - pairs[r["dense"], r["seed"]]
                for r in ways["latency"]
                if (r["dense"], r["seed"]) in pairs
            ]
            lines.append(
                [
                    share,
                    f"{steps} steps" if steps else "closed form",
                    len(gains),
                    *(f"{means[way]['accuracy']:.2f}" for way in ways),
                    f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})",
                    *(f"{means[way]['share']:.3f}" for way in ways),
                    *(f"{means[way]['macs']:.2f}" for way in ways),
                ]
            )
    columns = ("latency asked", "repair", "draws", "budget of latency, %", "of MACs, %", "gain")
    columns += ("time of the first", "of the second", "MACs of the first", "of the second")
    return markdown(columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("way", choices=("run", "write"))
    parser.add_argument("--network", default="resnet18_w16")
    parser.add_argument("--dense-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--steps", nargs="+", type=int, default=[300])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="images a call, as it is timed")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--dense", type=Path, default=Path("runs/dense"))
    parser.add_argument("--results", type=Path, default=Path("runs/latency_accuracy.jsonl"))
    options = parser.parse_args()
    rows = Rows(options.results)
    if options.way == "write":
        put(PAGE, "accuracy at equal latency", table(rows.known))
        return
    torch.set_num_threads(1)
    for seed in options.seeds:
        for dense in options.dense_seeds:
            measure(dense, seed, options, rows)


if __name__ == "__main__":
    main()
