"""Memory of each of two processes that train one model: whole ones (DDP), and shared (FSDP).

    python benchmarks/shared_training.py                    # 50 million parameters, AdamW
    python benchmarks/shared_training.py --blocks 12

A stack of residual blocks of 8.4 million parameters each, five batches of training. Shown are the
peaks of memory beyond that of a process without a model, in a training step and in all (with the
spreading and gathering of the model), the seconds of CPU time, and the mean loss, which is the same
for all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch import Learner

WIDTH = 1024
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
"""For the C library: freed tensors go back to the system at once, and are not counted."""
SHARED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
MODES = {
    "whole models (DDP)": {},
    "shared (FSDP), all weights gathered at once": SHARED,
    "shared (FSDP), gathered block by block": SHARED
    | {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "8000000"},
}


class Block(nn.Module):
    """A residual block of a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(torch.relu(self.wide(x)))


def read_memory(key: str) -> float:
    """A number of MiB in this process's status, such as its peak of memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{key}:"))
    return float(line.split()[1]) / 1024


def train(blocks: int) -> str:
    """Train in this process, beside the others; one line about it."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    images = random.normal(size=(40, 1, 32, 32)).astype(np.float32)
    pair = images, np.arange(40) % 4
    before = read_memory("VmRSS")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), *(Block() for _ in range(blocks)), nn.Linear(WIDTH, 4))
    settings = sec.Training(batch_size=8, optimizer="adamw", learning_rate=1e-5, precision="fp32")
    learner = Learner(model, pair, pair, None, settings)
    del model
    learner.train(0, [1e-5], lambda: None)  # the optimizer's state exists from now on
    peaks = []

    def tick() -> None:
        peaks.append(read_memory("VmHWM") - before)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    tick()
    start = time.process_time()
    loss = learner.train(1, [1e-5] * 5, tick)
    seconds = time.process_time() - start
    tick()
    # In the first of the steps the model is spread, too.
    steps, all_of_it = max(peaks[2:-1]), max(peaks[1:])
    return f"{steps:.0f} MiB in a step, {all_of_it:.0f} in all, {seconds:.1f} s, loss {loss:.6f}"


def main() -> None:
    """Each mode in two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(f"  process {os.environ['RANK']}: {train(options.blocks)}", flush=True)
        return
    for name, variables in MODES.items():
        print(name, flush=True)
        pair = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        mine = (__file__, "--one", "--blocks", str(options.blocks))
        environment = os.environ | RETURNED | variables
        subprocess.run([sys.executable, *pair, *mine], env=environment, check=False)


if __name__ == "__main__":
    main()
