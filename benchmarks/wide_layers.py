"""Time and memory of the criteria that hold each filter against all others of a wide layer.

    python benchmarks/wide_layers.py --filters 4096 16384
    python benchmarks/wide_layers.py --filters 4096 --images 256   # cosine of values

Each in a process of its own: its processor time, and its peak of memory beyond the weights.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

import secateurs as sec

CRITERIA = ("cosine", "geometric_median", "whc")


def measure(name: str, filters: int, weights: int, images: int) -> str:
    """One line: what a criterion takes for one layer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(weights, filters), torch.nn.Linear(filters, 2))
    network = sec.trace(model, torch.zeros(1, weights))
    data = torch.randn(images, weights) if images else None
    sec.score(network, "l1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    sec.score(network, name, data=data)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{name}, {filters} filters of {weights} weights: {seconds:.1f} s, {grown:.0f} MiB"


def main() -> None:
    """Each criterion at each width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--weights", type=int, default=576)
    parser.add_argument("--images", type=int, default=0, help="calibration data; cosine only")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one, *options.filters, options.weights, options.images))
        return
    for name in CRITERIA[:1] if options.images else CRITERIA:
        for filters in options.filters:
            size = ("--filters", str(filters), "--weights", str(options.weights))
            size = (*size, "--images", str(options.images))
            command = [sys.executable, __file__, "--one", name, *size]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
