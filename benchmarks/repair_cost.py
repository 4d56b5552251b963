"""What keeping accuracy costs: processor seconds and memory, by depth, width and size.

    python benchmarks/repair_cost.py torchvision:resnet18 --size 224 --images 256
    python benchmarks/repair_cost.py --growth --images 128      # depth and width, one after another

Weights are random and images are noise, which cost as much as any others; moments of batch norm are
taken on them first. One row a network: the steps' processor seconds (all threads together), the
wall's, the process's peak of memory, and by what the distance from the dense model fell.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.models.resnet import ResNet
from secateurs.reconstruction.pruner import Pruner, Request
from support.tables import markdown

GROWTH = (
    ("depth", [(f"resnet:{n}x4:32", 28) for n in (1, 2, 4, 8)]),
    ("width", [(f"resnet:2x4:{w}", 28) for w in (16, 32, 64, 128)]),
)


def build_model(name: str) -> tuple[nn.Module, int]:
    """(a model, its images' channels): ``torchvision:NAME``, or ``resnet:BLOCKSxSTAGES:WIDTH``."""
    torch.manual_seed(0)
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        import_module("support.torchvision_on_cpu")  # before torchvision
        import torchvision

        return torchvision.models.get_model(rest, weights=None).eval(), 3
    shape, _, width = rest.partition(":")
    blocks, _, stages = shape.partition("x")
    model = ResNet(
        (int(blocks),) * int(stages),
        classes=10,
        in_channels=1,
        width=int(width),
        stem="small-stride2",
        through=False,
    )
    return model.eval(), 1


def take_moments_(model: nn.Module, images: np.ndarray) -> None:
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        for start in range(0, min(len(images), 64), 32):
            model(torch.from_numpy(images[start : start + 32]))
    model.eval()


class Clock:
    """Processor seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[step] = round(time.process_time() - start, 1)
        print(f"  {step}: {self.seconds[step]} s", file=sys.stderr, flush=True)


def measure(name: str, size: int, count: int, share: float) -> dict[str, object]:
    model, channels = build_model(name)
    shape = (count, channels, size, size)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    take_moments_(model, images)
    clock, start = Clock(), time.perf_counter()
    with clock.of("trace"):
        network = sec.trace(model, torch.from_numpy(images[:1]))
    with clock.of("order and curves"):
        pruner = Pruner.of(model, network, images, Request())
    with clock.of("plan"):
        cut = pruner.plan(sec.Budget(macs=share))
    with clock.of("cut, prove, repair"):
        small = pruner.make(cut)
    report = sec.report_of(small).fidelity
    return {
        "network": name,
        "size": size,
        "images": count,
        "macs": network.macs(),
        "params": network.params(),
        "groups": len(network.groups),
        "threads": torch.get_num_threads(),
        **clock.seconds,
        "wall": round(time.perf_counter() - start, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "values_gb": round(report.peak_bytes / 1e9, 2),
        "dropped": round(report["dropped"].distance, 4),
        "kept": round(report.fidelity.distance, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="torchvision:resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("runs/repair_cost.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.growth:
        row = measure(options.network, options.size, options.images, options.macs)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(markdown(list(row), [list(row.values())]))
        return
    for _, networks in GROWTH:
        for name, size in networks:  # each in a process of its own, for its peak of memory
            words = [name, "--size", str(size), "--images", str(options.images)]
            words += ["--threads", str(options.threads), "--results", str(options.results)]
            subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
