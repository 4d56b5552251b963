"""Faster for real: predicted and measured speed of cuts, beside Torch-Pruning's of the same MACs.

    python benchmarks/speed.py run                       # all models and runtimes
    python benchmarks/speed.py run --models resnet18 --runtimes eager --size 160
    python benchmarks/speed.py table                     # what was measured, into docs/speed.md

Weights are random: what is measured is speed, which does not depend on them. Every number is the
dense model's time over the cut's, in the same passes, in turns and in random order; on one thread
processor time counts, which others on the machine do not add to. A cell, one model in one runtime,
is written as it ends, and is not measured again.
"""

import argparse
import copy
import itertools
import statistics
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
import support.torchvision_on_cpu  # noqa: F401  (before torchvision and timm)
from secateurs.measurement.conditions import Conditions, machine
from secateurs.measurement.latency_model import LatencyModel
from secateurs.measurement.timing import clock_for, compare_times
from secateurs.planning.profiling import profile_network
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from secateurs.pytorch import runner
from support import pitch
from support.rows import Rows
from support.tables import markdown, put

MODELS = (
    *("resnet18", "mobilenet_v2", "efficientnet_lite0"),
    *("vit_tiny", "resnet50", "crepe_full"),
)
RUNTIMES = ("eager", "onnxruntime")
SHARES = (0.5, 0.25, 0.1)
OF_TIME = (0.5, 0.25)
"""Of the MACs, and of the dense model's time."""
FLOOR = 0.05
PASSES = (31, 15)
"""Over all models, at batch 1 and at the larger batch."""
BESIDE_THEIRS = "ours, macs as Torch-Pruning's at {}"
THEIRS: dict[tuple, nn.Module | None] = {}
"""What Torch-Pruning made: the same for every runtime."""
PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
SAYS = """## Cuts, measured

`python benchmarks/speed.py run --size {size}`, with Torch-Pruning {version}: times as fast as the
dense model, on one thread, at batch 1 and batch {batch}, with the quartiles at batch 1; "predicted"
is what the latency model said at batch 1 before the cut was timed (of a budget of latency, after
it had learned from the cuts that were timed on the way to it); "efficiency" is the speed-up over
the ratio of MACs.
"""
BESIDE = """
Ours beside Torch-Pruning's `round_to=8` at the MACs that its cut has, planned for this runtime
(`sec.Budget(macs=..., runtime=...)`): times as fast as the dense model at batch 1, with quartiles.
"Ours to theirs" is the median of the ratio within the same passes, with quartiles; "beyond the
spread" where its lower quartile is above 1. Of cells without quartiles there, passes were not kept:
the ratio is that of the medians, and "beyond the spread" is where our lower quartile is above their
upper one, which takes more.
"""
OFF = """
How far off predictions were, of cuts that the latency model had not seen, in each runtime and in
all, of the time that was measured:
"""


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "crepe_full":
        return pitch.crepe("full", pretrained=False)
    if name == "efficientnet_lite0":
        import timm

        return timm.create_model("efficientnet_lite0").eval()
    if name == "vit_tiny":
        import timm

        return timm.create_model("vit_tiny_patch16_224").eval()
    import torchvision

    return getattr(torchvision.models, name)().eval()


def example_for(name: str, size: int) -> torch.Tensor:
    """One input: an image, or a frame of sound."""
    return torch.randn(1, pitch.FRAME) if name == "crepe_full" else torch.randn(1, 3, size, size)


def their_cut(model: nn.Module, example: torch.Tensor, macs: float, round_to: int | None):
    """Torch-Pruning's model of at most so many MACs, or None where it comes to none."""
    import torch_pruning as tp

    # Of every layer a share goes, so about the root of the MACs' share stays.
    middle = 1 - (macs / sec.trace(model, example).macs()) ** 0.5
    low, high, best = max(0.0, middle - 0.15), min(0.98, middle + 0.25), None
    for _ in range(7):
        share, small = (low + high) / 2, copy.deepcopy(model)
        classifier = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
        try:
            pruner = tp.pruner.MagnitudePruner(
                small,
                example,
                importance=tp.importance.MagnitudeImportance(p=1),
                pruning_ratio=share,
                round_to=round_to,
                ignored_layers=[classifier],
                num_heads={m.qkv: m.num_heads for m in small.modules() if hasattr(m, "qkv")},
            )
            pruner.step()
            say_heads(small, pruner)
            left = sec.trace(small, example).macs()
        except Exception:  # noqa: BLE001 - of theirs: the cell stays empty
            return best
        if left <= macs:
            high, best = share, small
        else:
            low = share
    return best


def say_heads(small: nn.Module, pruner: object) -> None:
    """What timm's attention holds as numbers, as Torch-Pruning's own example has it."""
    for module in small.modules():
        if hasattr(module, "qkv"):
            module.num_heads = pruner.num_heads[module.qkv]
            module.attn_dim = module.qkv.out_features // 3
            module.head_dim = module.attn_dim // module.num_heads


def our_cuts(
    model: nn.Module,
    example: torch.Tensor,
    network: sec.Network,
    found: LatencyModel,
    theirs: dict[float, int],
) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """Our models by what was asked for, and how much faster each was said to be.

    Args:
        model: dense.
        example: its input.
        network: its trace.
        found: how long it takes.
        theirs: share -> the MACs that Torch-Pruning's model of that share has.
    """
    runtime, scores = found.conditions.runtime, sec.score(network, "l1_mean")
    there = {"runtime": runtime, "threads": 1}
    predictor = Predictor(network, found)
    made: dict[str, nn.Module] = {}
    predicted: dict[str, float] = {}
    for share in SHARES:
        asked = {
            f"ours, macs={share}": {"macs": share},
            f"ours, macs={share}, runtime": {"macs": share, **there},
        }
        if share in theirs:
            asked[BESIDE_THEIRS.format(share)] = {"macs": theirs[share], **there}
        if share in OF_TIME:
            asked[f"ours, latency={share}"] = {"latency": share, **there}
        for label, budget in asked.items():
            try:
                if "latency" in budget:
                    pruned = sec.prune(model, example, budget, criterion="l1_mean", floor=FLOOR)
                    cut, made[label] = pruned.cut, pruned.model
                    chosen = next(trial for trial in pruned.trials if trial.cut == cut)
                    taken = chosen.predicted["latency"]  # before this cut was timed
                    print(f"  {label}: {len(pruned.trials)} trials, the last {chosen}", flush=True)
                else:
                    cut = sec.plan(network, scores, budget, floor=FLOOR)
                    made[label] = sec.apply(model, cut, example, network=network, proof=False)
                    taken = predictor.milliseconds(Candidate.after(network, cut))
            except sec.SecateursError as error:
                print(f"  {label}: {error}", flush=True)
                continue
            predicted[label] = found.dense_ms / taken
    return made, predicted


def their_cuts(
    name: str, model: nn.Module, example: torch.Tensor, macs: int
) -> dict[str, nn.Module]:
    """Torch-Pruning's models by what was asked for."""
    made: dict[str, nn.Module] = {}
    for share, round_to in itertools.product(SHARES, (None, 8)):
        key = (name, tuple(example.shape), share, round_to)
        if key not in THEIRS:
            theirs = pitch.ChannelMajor(model) if name == "crepe_full" else model
            THEIRS[key] = their_cut(theirs, example, share * macs, round_to)
        if (small := THEIRS[key]) is not None:
            made[f"Torch-Pruning, macs={share}" + (", round_to=8" if round_to else "")] = small
    return made


def cell(name: str, runtime: str, size: int, batch: int) -> list[dict]:
    """The rows of one model in one runtime."""
    model, example = build(name), example_for(name, size)
    network = sec.trace(model, example)
    conditions = Conditions(runtime=runtime, threads=1)
    found = profile_network(network, conditions)
    print(f"{name}: {found}", flush=True)
    others = their_cuts(name, model, example, network.macs())
    macs = {
        share: sec.trace(others[label], example).macs()
        for share in SHARES
        if (label := f"Torch-Pruning, macs={share}, round_to=8") in others
    }
    runs, predicted = our_cuts(model, example, network, found, macs)
    runs |= others
    timings = {}
    for images in (1, batch):
        now = conditions.with_batch(images)
        ready = {"dense": runner(model, example, now)}
        ready |= {label: runner(small, example, now) for label, small in runs.items()}
        timings[images] = compare_times(
            ready, "dense", clock=clock_for(now), repeats=PASSES[images > 1], trusted=0.05
        )
    rows = []
    for label, small in runs.items():
        one, many = timings[1][label], timings[batch][label]
        ratio = network.macs() / sec.trace(small, example).macs()
        rows.append(
            {
                "model": name,
                "runtime": runtime,
                "size": size,
                "batch": batch,
                "cut": label,
                "fewer MACs": ratio,
                "batch 1": 1 / one.ratio,
                "quartiles": [1 / one.percentile_of_ratio(75), 1 / one.percentile_of_ratio(25)],
                "batch many": 1 / many.ratio,
                "passes": [round(1 / ratio, 4) for ratio in one.ratios],
                "passes many": [round(1 / ratio, 4) for ratio in many.ratios],
                "predicted": predicted.get(label),
                "efficiency": 1 / one.ratio / ratio,
                "machine": machine()["processor"].rpartition(" ")[0],
            }
        )
    return rows


def errors(rows: list[dict]) -> list[float]:
    """Of every prediction, relative to the measured time at batch 1."""
    return [abs(row["batch 1"] / row["predicted"] - 1) for row in rows if row["predicted"]]


def error_table(rows: list[dict]) -> str:
    """How far off the predictions were, in each runtime and in all."""
    lines = []
    for runtime in (*dict.fromkeys(row["runtime"] for row in rows), "all"):
        off = errors([row for row in rows if runtime in (row["runtime"], "all")])
        if off:
            parts = (statistics.median(off), float(np.quantile(off, 0.9)), max(off))
            lines.append([runtime, len(off), *(f"{part:.1%}" for part in parts)])
    columns = ("runtime", "cuts", "median", "nine of ten within", "worst")
    return markdown(columns, lines)


def cut_table(rows: list[dict], batch: int) -> str:
    columns = ("model", "runtime", "cut", "fewer MACs", "batch 1", "quartiles", f"batch {batch}")
    return markdown(
        (*columns, "predicted", "efficiency", "processor"),
        [
            (
                row["model"],
                row["runtime"],
                row["cut"],
                f"{row['fewer MACs']:.2f}",
                f"{row['batch 1']:.2f}",
                "{:.2f} to {:.2f}".format(*row["quartiles"]),
                f"{row['batch many']:.2f}",
                "" if row["predicted"] is None else f"{row['predicted']:.2f}",
                f"{row['efficiency']:.2f}",
                row["machine"].partition("(")[0],
            )
            for row in rows
        ],
    )


def beside_table(rows: list[dict]) -> str:
    """Ours and Torch-Pruning's at the same MACs, cell by cell."""
    known = {(row["model"], row["runtime"], row["cut"]): row for row in rows}
    lines = []
    for (model, runtime, label), theirs in known.items():
        share = next((s for s in SHARES if label == f"Torch-Pruning, macs={s}, round_to=8"), None)
        ours = known.get((model, runtime, BESIDE_THEIRS.format(share)))
        if ours is not None:
            speeds = [
                "{:.2f} ({:.2f} to {:.2f})".format(row["batch 1"], *row["quartiles"])
                for row in (ours, theirs)
            ]
            (beside, beyond), (beside_many, _) = (
                beside_theirs(ours, theirs, batch, passes)
                for batch, passes in (("batch 1", "passes"), ("batch many", "passes many"))
            )
            macs = f"{ours['fewer MACs']:.2f}"
            lines.append([model, runtime, macs, *speeds, beside, beside_many, beyond])
    many = rows[0]["batch"] if rows else 0
    columns = ("model", "runtime", "fewer MACs", "ours", "Torch-Pruning", "ours to theirs")
    return markdown((*columns, f"at batch {many}", "beyond the spread"), lines)


def beside_theirs(ours: dict, theirs: dict, batch: str, passes: str) -> tuple[str, str]:
    """How many times as fast ours is, and whether that is beyond the spread."""
    if passes not in ours or passes not in theirs:  # of rows that were written without them
        beyond = ours["quartiles"][0] > theirs["quartiles"][1]
        return f"{ours[batch] / theirs[batch]:.2f}", "yes" if beyond else "no"
    ratios = np.array(ours[passes]) / np.array(theirs[passes])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})", "yes" if low > 1 else "no"


def page(rows: list[dict], size: int, batch: int) -> str:
    begin = SAYS.format(size=size, version=version("torch-pruning"), batch=batch)
    parts = (begin, cut_table(rows, batch), BESIDE, beside_table(rows), OFF, error_table(rows))
    return "\n".join((*parts, ""))


def run(given: argparse.Namespace, rows: Rows) -> None:
    torch.set_num_threads(1)
    for name, runtime in itertools.product(given.models, given.runtimes):
        key = {"model": name, "runtime": runtime, "size": given.size, "batch": given.batch}
        if rows.has(**key):
            continue
        try:
            for row in cell(name, runtime, given.size, given.batch):
                rows.add(**row)
        except sec.SecateursError as error:
            print(f"{name}, {runtime}: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("way", choices=("run", "table"))
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--results", type=Path, default=Path("runs/speed.jsonl"))
    given = parser.parse_args()
    rows = Rows(given.results)
    if given.way == "run":
        run(given, rows)
        return
    alike = {"size": given.size, "batch": given.batch}
    known = [row for row in rows.known if alike.items() <= row.items()]
    put(PAGE, "speed", page(known, given.size, given.batch))


if __name__ == "__main__":
    main()
