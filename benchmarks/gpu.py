"""On CUDA: the same cut, the same proof, the same outputs as on the CPU; and how much faster.

Started by ``gpu.sh``. It fails where a number differs by more than it may, and writes a table of
what it measured.
"""

import argparse
import copy
import itertools
import time
from pathlib import Path

import torch
from torch import nn

import secateurs as sec
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.timing import compare_times
from secateurs.planning.profiling import profile_network
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from secateurs.pytorch import runner
from speed import their_cut
from support.tables import markdown, put

MODELS = ("resnet50", "mobilenet_v2")
RUNTIMES = ("eager", "channels-last", "compile")
SECONDS = 330
CLOSE = 1e-3


def build(name: str) -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return getattr(torchvision.models, name)().eval()


def check_equal(name: str) -> None:
    """Trace, plan and prove on both devices: the same cut, and outputs that agree.

    Raises:
        SystemExit: they differ.
    """
    model, x = build(name), torch.randn(2, 3, 224, 224)
    on_cuda = copy.deepcopy(model).cuda()
    here = sec.prune(model, x, "macs=0.5")
    there = sec.prune(on_cuda, x.cuda(), "macs=0.5")
    if here.cut != there.cut:
        raise SystemExit(f"{name}: another cut on CUDA")
    with torch.no_grad():
        expected, found = here.model(x), there.model(x.cuda()).cpu()
    gap = float((expected - found).abs().max() / expected.abs().max())
    print(f"{name}: outputs differ by {gap:.1e} of the largest; {there.report.proof}", flush=True)
    if not gap <= CLOSE:
        raise SystemExit(f"{name}: expected a difference of at most {CLOSE}; received {gap:.1e}")


def rows_of(name: str, runtime: str, dtype: str, until: float) -> list[list[str]]:
    model, x = build(name), torch.randn(1, 3, 224, 224)
    network = sec.trace(model, x)
    cut = sec.plan(network, sec.score(network, "l1_mean"), "macs=0.5")
    models = {"ours": sec.apply(model, cut, x, network=network, proof=False)}
    theirs = their_cut(model, x, 0.5 * network.macs(), 8)
    if theirs is not None:
        models["Torch-Pruning, round_to=8"] = theirs
    rows = []
    for batch in (1, 64):
        if time.monotonic() > until:
            break
        conditions = Conditions(runtime=runtime, batch=batch, dtype=dtype, device="cuda")
        predicted = ""
        if runtime != "compile":  # a compilation for each of twenty cuts takes too long here
            found = profile_network(network, conditions, cuts=8)
            milliseconds = Predictor(network, found).milliseconds(
                Candidate(network, network.alive(network.removed_by(cut)))
            )
            predicted = f"{found.dense_ms / milliseconds:.2f}"
        ready = {"dense": runner(model, x, conditions)}
        ready |= {label: runner(small, x, conditions) for label, small in models.items()}
        timings = compare_times(ready, "dense", trusted=0.05)
        for label in models:
            said = predicted if label == "ours" else ""
            rows.append(
                [name, runtime, dtype, str(batch), label, said, f"{1 / timings[label].ratio:.2f}"]
            )
            print("  ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is here: not run")
    until = time.monotonic() + SECONDS
    for name in MODELS:
        check_equal(name)
    rows: list[list[str]] = []
    for name, runtime, dtype in itertools.product(MODELS, RUNTIMES, ("float32", "float16")):
        if time.monotonic() > until:
            print(f"{name}, {runtime}, {dtype}: no time left: not run", flush=True)
            continue
        rows += rows_of(name, runtime, dtype, until)
    columns = ("model", "runtime", "type", "batch", "cut to 50 % of MACs", "predicted", "faster")
    put(page, "gpu", f"{torch.cuda.get_device_name()}\n\n{markdown(columns, rows)}")


if __name__ == "__main__":
    main()
