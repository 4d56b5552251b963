"""On CUDA: the same cut, proof, repair and distillation as on the CPU; and how much faster.

Started by ``gpu.sh``. It fails where a number differs by more than it may, and writes a table of
what it measured. Compilations are made beforehand, by all cores at once, and found in PyTorch's
cache when they are timed: one after the other they alone would take the six minutes.
"""

import argparse
import copy
import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import SecateursError
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.timing import compare_times
from secateurs.planning.profiling import profile_network
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from secateurs.pytorch import distil, runner
from secateurs.reconstruction.calibration import in_batches
from speed import their_cut
from support.tables import markdown, put

MODELS = ("resnet50", "mobilenet_v2")
RUNTIMES = ("eager", "channels-last", "compile")
DTYPES = ("float32", "float16")
BATCHES = (64, 1)
CLOSE = 1e-3
COLUMNS = (
    "model",
    "runtime",
    "type",
    "batch",
    "dense ms",
    "half of the MACs",
    "ms",
    "predicted",
    "times as fast",
)
ANY = "ours, any width"
THEIRS = "Torch-Pruning, round_to=8"


def build(name: str) -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return getattr(torchvision.models, name)().eval()


def relative_gap(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Largest difference, as a share of the largest expected value."""
    return float((expected - found.cpu()).abs().max() / expected.abs().max())


def require_close(quantity: str, gap: float) -> str:
    """The line that says so.

    Raises:
        SystemExit: the difference is larger than ``CLOSE``.
    """
    line = f"{quantity}: outputs differ by {gap:.1e} of the largest"
    print(line, flush=True)
    if not gap <= CLOSE:
        raise SystemExit(
            f"{quantity}: expected a difference of at most {CLOSE}; received {gap:.1e}"
        )
    return line


@torch.no_grad()
def check_cut(name: str) -> list[str]:
    """Trace, plan and prove on both devices: the same cut, and outputs that agree.

    Raises:
        SystemExit: they differ.
    """
    model, x = build(name), torch.randn(2, 3, 224, 224)
    here = sec.prune(model, x, "macs=0.5", multiple=8)  # as is the default on CUDA
    there = sec.prune(copy.deepcopy(model).cuda(), x.cuda(), "macs=0.5")
    if here.cut != there.cut:
        raise SystemExit(f"{name}: another cut on CUDA")
    gap = relative_gap(here.model(x), there.model(x.cuda()))
    return [f"{require_close(f'{name}, cut to half of the MACs', gap)}; {there.report.proof}"]


def check_repair(images: int = 256, steps: int = 10) -> list[str]:
    """The same cut, repaired and distilled on both devices: outputs that agree.

    A trained network of ``accuracy.py`` and unlabelled Fashion-MNIST, so that least squares and
    steps have something to fit.

    Raises:
        SystemExit: they differ.
    """
    from accuracy import Case

    case = Case("resnet18_w16", 0, 0, images, Path(os.environ.get("DENSE", "runs/dense")))
    x = torch.from_numpy(case.data.test.batch(slice(0, 500))[0])
    network = sec.trace(case.model, x[:1])
    cut = sec.plan(network, sec.score(network, "l1_mean"), "macs=0.25")
    found, lines = {}, []
    for device in ("cpu", "cuda"):
        dense = copy.deepcopy(case.model).to(device)
        small = sec.apply(dense, cut, x[:1].to(device))
        repaired = sec.repair(small, dense, case.images)
        batches = in_batches(CalibrationBatch(case.images, None))
        learned = distil(
            repaired, dense, batches[1:], steps=steps, held_out=batches[:1], seed=0
        ).model
        with torch.no_grad():
            found[device] = [model(x.to(device)).cpu() for model in (small, repaired, learned)]
    for name, here, there in zip(
        ("cut", "repaired", f"{steps} steps of distillation"), *found.values(), strict=True
    ):
        agree = float((here.argmax(1) == there.argmax(1)).float().mean())
        gap = relative_gap(here, there)
        lines.append(
            f"{require_close(f'ResNet-18 of width 16, {name}', gap)}; {agree:.1%} of 500 images "
            "have the same class"
        )
    return lines


@dataclass(frozen=True)
class Contest:
    """A network, our cut of half of its MACs, and the cuts that are timed beside it."""

    dense: nn.Module
    example: torch.Tensor
    network: sec.Network
    cut: sec.Cut
    models: dict[str, nn.Module]


@cache
def contest(name: str) -> Contest:
    model, x = build(name), torch.randn(1, 3, 224, 224)
    network = sec.trace(model, x)
    scores = sec.score(network, "l1_mean")
    cut = sec.plan(network, scores, "macs=0.5", multiple=1)
    even = sec.plan(network, scores, "macs=0.5", multiple=8)
    models = {
        ANY: sec.apply(model, cut, x, network=network, proof=False),
        "ours, multiples of 8": sec.apply(model, even, x, network=network, proof=False),
    }
    if (theirs := their_cut(model, x, 0.5 * network.macs(), 8)) is not None:
        models[THEIRS] = theirs
    return Contest(model, x, network, cut, models)


def ready_runs(name: str, conditions: Conditions) -> dict:
    """Dense and cut models, ready to be timed."""
    found = contest(name)
    ready = {"dense": runner(found.dense, found.example, conditions)}
    return ready | {
        label: runner(small, found.example, conditions) for label, small in found.models.items()
    }


def cell(name: str, runtime: str, dtype: str, batch: int) -> list[list[str]]:
    """Speed-ups of one network under one set of conditions, one line for each cut."""
    conditions = Conditions(runtime=runtime, batch=batch, dtype=dtype, device="cuda")
    made = contest(name)
    predicted = "-"
    if runtime != "compile":  # eight more compilations for each cell would take too long
        found = profile_network(made.network, conditions, cuts=8)
        alive = made.network.alive(made.network.removed_by(made.cut))
        milliseconds = Predictor(made.network, found).milliseconds(Candidate(made.network, alive))
        predicted = f"{found.dense_ms / milliseconds:.2f}"
    ready = ready_runs(name, conditions)
    for run in ready.values():
        run()
    timings = compare_times(ready, "dense", trusted=0.05)
    return [
        [
            name,
            runtime,
            dtype,
            str(batch),
            f"{timings['dense'].median:.2f}",
            label,
            f"{timings[label].median:.2f}",
            predicted if label == ANY else "",
            f"{1 / timings[label].ratio:.2f}",
        ]
        for label in made.models
    ]


def compile_beforehand(seconds: float) -> None:
    """Each network's compilations, by a process of their own, into PyTorch's cache on disk."""
    started = [
        subprocess.Popen([sys.executable, __file__, "-", "--compile", name, dtype, str(batch)])
        for name, dtype, batch in itertools.product(MODELS, DTYPES, BATCHES)
    ]
    until = time.monotonic() + seconds
    for process in started:
        try:
            process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    print(f"compiled beforehand: {[process.returncode for process in started]}", flush=True)


def compile_one(name: str, dtype: str, batch: str) -> None:
    conditions = Conditions(runtime="compile", batch=int(batch), dtype=dtype, device="cuda")
    for run in ready_runs(name, conditions).values():
        run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--seconds", type=float, default=330)
    parser.add_argument("--compile", nargs=3, metavar=("MODEL", "TYPE", "BATCH"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is here: not run")
    if options.compile:
        compile_one(*options.compile)
        return
    until = time.monotonic() + options.seconds
    put(options.page, "checks", "\n".join(f"- {line}" for line in check_everything()))
    rows: list[list[str]] = []
    for runtime in RUNTIMES:
        if runtime == "compile":
            compile_beforehand(0.4 * options.seconds)
        for name, dtype, batch in itertools.product(MODELS, DTYPES, BATCHES):
            if time.monotonic() > until:
                print(f"{name}, {runtime}, {dtype}, {batch}: no time left: not run", flush=True)
                continue
            start = time.monotonic()
            try:
                rows += cell(name, runtime, dtype, batch)
            except SecateursError as error:
                print(f"{name}, {runtime}, {dtype}, {batch}: {error}", flush=True)
                continue
            for row in rows[-len(contest(name).models) :]:
                print("  ".join(row), f"  ({time.monotonic() - start:.0f} s)", flush=True)
            head = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n"
            put(options.page, "gpu", f"{head}\n{markdown(COLUMNS, rows)}")


def check_everything() -> list[str]:
    """Every comparison with the CPU, in full float32: convolutions in TF32 alone differ by 1e-3."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        lines = [line for name in MODELS for line in check_cut(name)] + check_repair()
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    model, x = build("resnet50").cuda(), torch.randn(2, 3, 224, 224).cuda()
    lines.append(
        f"resnet50 with TF32 as PyTorch sets it: {sec.prune(model, x, 'macs=0.5').report.proof}"
    )
    print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main()
