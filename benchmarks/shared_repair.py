"""Processor seconds of a round's scores, error curves and repair, shared by several processes.

    python benchmarks/shared_repair.py                # 1, 2 and 4 processes
    python benchmarks/shared_repair.py --images 256 --pixels 28 --width 16 --processes 1 2

A ResNet-18 (random weights and images) is cut to half of its channels.
Every process holds all images and sums over its own. Shown are the seconds of the process that took
longest, step by step, and whether all ended with the same weights, to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import secateurs as sec
from secateurs import models
from secateurs.calibration.shared_data import share
from secateurs.pytorch.training.processes import Processes
from secateurs.reconstruction.pruner import Request, curves_of, repair_after_

STEPS = ("scores (fisher)", "orders and curves", "repair")


def measure(images: int, pixels: int, width: int) -> None:
    """Take the steps in this process, beside the others; the first prints a row."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    peers = Processes(sec.Training(precision="fp32")).peers
    random = np.random.default_rng(0)
    x = random.normal(size=(images, 1, pixels, pixels)).astype(np.float32)
    y = random.integers(0, 10, images)
    torch.manual_seed(0)
    model = models.resnet18(classes=10, in_channels=1, width=width).eval()
    network = sec.trace(model, x[:1])
    small = sec.apply(model, sec.plan(network, sec.score(network), amount=0.5), x[:1])
    cut = sec.report_of(small).cut
    steps = (
        lambda: sec.score(network, "fisher", data=share((x, y), peers)),
        lambda: curves_of(network, x, Request(peers=peers)),
        lambda: repair_after_(network, small, cut, x, 0, peers=peers),
    )
    spent = []
    for step in steps:
        start = time.process_time()
        step()
        spent.append(time.process_time() - start)
    slowest = np.max(peers.gather(spent), axis=0)
    values = b"".join(value.numpy().tobytes() for value in small.state_dict().values())
    held = set(peers.gather(hashlib.sha256(values).hexdigest()))
    if peers.rank == 0:
        cells = " | ".join(f"{seconds:.1f}" for seconds in slowest)
        print(f"| {peers.count} | {cells} | {'yes' if len(held) == 1 else 'no'} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--pixels", type=int, default=56)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(options.images, options.pixels, options.width)
        # Under load, PyTorch's threads abort one of several processes that use Gloo at the end.
        sys.stdout.flush()
        os._exit(0)
    print(f"| processes | {' | '.join(STEPS)} | same weights |\n|---|---|---|---|---|", flush=True)
    for count in options.processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        here = [str(Path(__file__)), "--inside"]
        for name in ("images", "pixels", "width"):
            here += [f"--{name}", str(getattr(options, name))]
        alone = count == 1
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, *([] if alone else launcher), *here], env=environment, check=True
        )


if __name__ == "__main__":
    main()
