"""Faster for real: predicted and measured speed of cuts, beside Torch-Pruning's of the same MACs.

    python benchmarks/speed.py                           # all models and runtimes, docs/speed.md
    python benchmarks/speed.py --models resnet18 --runtimes eager --size 160 --page none

Weights are random: what is measured is speed, which does not depend on them. Every number is the
dense model's time over the cut's, in the same passes, in turns and in random order; on one thread
processor time counts, which others on the machine do not add to.
"""

import argparse
import copy
import itertools
import json
import statistics
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import secateurs as sec
import support.torchvision_on_cpu  # noqa: F401  (before torchvision and timm)
from secateurs.measurement.conditions import Conditions, machine
from secateurs.measurement.timing import clock_for, compare_times
from secateurs.planning.profiling import profile_network
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from secateurs.pytorch import runner
from support.tables import markdown, put

MODELS = ("resnet18", "mobilenet_v2", "efficientnet_lite0", "vit_tiny", "resnet50")
RUNTIMES = ("eager", "onnxruntime")
SHARES = (0.5, 0.25)
THEIRS: dict[tuple, nn.Module | None] = {}
"""What Torch-Pruning made: the same for every runtime."""
PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
SAYS = """## Cuts, measured

`python benchmarks/speed.py --size {size}`, with Torch-Pruning {version}: times as fast as the dense
model, on one thread, at batch 1 and batch {batch}, with the quartiles at batch 1; "predicted" is
what the latency model said at batch 1 before the cut was made; "efficiency" is the speed-up over
the ratio of MACs. {count} of our cuts were predicted: within {median:.0%} (median) and {worst:.0%}
(worst).
"""


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        import timm

        return timm.create_model("efficientnet_lite0").eval()
    if name == "vit_tiny":
        import timm

        return timm.create_model("vit_tiny_patch16_224").eval()
    import torchvision

    return getattr(torchvision.models, name)().eval()


def their_cut(model: nn.Module, example: torch.Tensor, macs: float, round_to: int | None):
    """Torch-Pruning's model of at most so many MACs, or None where it comes to none."""
    import torch_pruning as tp

    # Of every layer a share goes, so about the root of the MACs' share stays.
    middle = 1 - (macs / sec.trace(model, example).macs()) ** 0.5
    low, high, best = max(0.0, middle - 0.1), min(1.0, middle + 0.15), None
    for _ in range(5):
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
            left = sec.trace(small, example).macs()
        except Exception:  # noqa: BLE001 - of theirs: the cell stays empty
            return best
        if left <= macs:
            high, best = share, small
        else:
            low = share
    return best


def cell(name: str, runtime: str, size: int, batch: int) -> list[dict]:
    """The rows of one model in one runtime."""
    model, example = build(name), torch.randn(1, 3, size, size)
    network = sec.trace(model, example)
    conditions = Conditions(runtime=runtime, threads=1)
    found = profile_network(network, conditions)
    print(f"{name}: {found}", flush=True)
    predictor = Predictor(network, found)
    scores = sec.score(network, "l1_mean")
    runs: dict[str, nn.Module] = {}
    predicted: dict[str, float] = {}
    for share in SHARES:
        asked = {
            f"ours, macs={share}": {"macs": share},
            f"ours, macs={share}, fast widths": {"macs": share},
            f"ours, latency={share}": {"latency": share, "runtime": runtime, "threads": 1},
        }
        for label, budget in asked.items():
            multiple = found.multiple if "fast" in label else None
            try:
                if "latency" in budget:
                    made = sec.prune(model, example, budget, criterion="l1_mean", floor=0.05)
                    cut, runs[label] = made.cut, made.model
                else:
                    cut = sec.plan(network, scores, budget, multiple=multiple, floor=0.05)
                    runs[label] = sec.apply(model, cut, example, network=network, proof=False)
            except sec.SecateursError as error:
                print(f"  {label}: {error}", flush=True)
                continue
            alive = network.alive(network.removed_by(cut))
            predicted[label] = found.dense_ms / predictor.milliseconds(Candidate(network, alive))
        for round_to in (None, 8):
            key = (name, size, share, round_to)
            if key not in THEIRS:
                THEIRS[key] = their_cut(model, example, share * network.macs(), round_to)
            if (small := THEIRS[key]) is not None:
                label = f"Torch-Pruning, macs={share}" + (", round_to=8" if round_to else "")
                runs[label] = small
    timings = {}
    for images in (1, batch):
        now = conditions.with_batch(images)
        ready = {"dense": runner(model, example, now)}
        ready |= {label: runner(small, example, now) for label, small in runs.items()}
        timings[images] = compare_times(ready, "dense", clock=clock_for(now), trusted=0.05)
    rows = []
    for label, small in runs.items():
        one, many = timings[1][label], timings[batch][label]
        ratio = network.macs() / sec.trace(small, example).macs()
        rows.append(
            {
                "model": name,
                "runtime": runtime,
                "cut": label,
                "fewer MACs": ratio,
                "batch 1": 1 / one.ratio,
                "quartiles": [1 / one.percentile_of_ratio(75), 1 / one.percentile_of_ratio(25)],
                f"batch {batch}": 1 / many.ratio,
                "predicted": predicted.get(label),
                "efficiency": 1 / one.ratio / ratio,
            }
        )
        print(f"  {rows[-1]}", flush=True)
    return rows


def errors(rows: list[dict]) -> list[float]:
    """Of every prediction, relative to the measured time at batch 1."""
    return [abs(row["batch 1"] / row["predicted"] - 1) for row in rows if row["predicted"]]


def page(rows: list[dict], size: int, batch: int) -> str:
    off = errors(rows)
    said = SAYS.format(
        size=size,
        version=version("torch-pruning"),
        batch=batch,
        count=len(off),
        median=statistics.median(off),
        worst=max(off),
    )
    columns = ("model", "runtime", "cut", "fewer MACs", "batch 1", "quartiles", f"batch {batch}")
    table = markdown(
        (*columns, "predicted", "efficiency"),
        [
            (
                row["model"],
                row["runtime"],
                row["cut"],
                f"{row['fewer MACs']:.2f}",
                f"{row['batch 1']:.2f}",
                "{:.2f} to {:.2f}".format(*row["quartiles"]),
                f"{row[f'batch {batch}']:.2f}",
                "" if row["predicted"] is None else f"{row['predicted']:.2f}",
                f"{row['efficiency']:.2f}",
            )
            for row in rows
        ],
    )
    on = machine()
    return f"{said}\n{table}\n\nMeasured on {on['processor'].rpartition(' ')[0]}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path, default=Path("speed.json"))
    parser.add_argument("--page", default=str(PAGE))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = []
    for name, runtime in itertools.product(given.models, given.runtimes):
        try:
            rows += cell(name, runtime, given.size, given.batch)
        except sec.SecateursError as error:
            print(f"{name}, {runtime}: {error}", flush=True)
        given.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    if given.page != "none" and rows:
        put(Path(given.page), "speed", page(rows, given.size, given.batch))
    off = errors(rows)
    if off:
        print(f"predicted within {statistics.median(off):.1%} (median), {max(off):.1%} (worst)")


if __name__ == "__main__":
    main()
