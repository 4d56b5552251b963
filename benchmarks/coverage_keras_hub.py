"""What can go of KerasHub's backbones, beside a count by hand.

    make coverage-keras-hub                              # all; the table in docs/coverage.md
    python benchmarks/coverage_keras_hub.py BERT ViT     # some, printed

Each is built small and offline with random weights, and half of the channels of every group go by
the L1 norm, proven. The count by hand is the same network built at half of its widths: what that
one has fewer parameters is what half of the channels should take. It wants ``pip install
keras-hub``.
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

from support.keras_coverage import cut_half
from support.keras_hub_models import BACKBONES
from support.tables import put

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
MARK = "coverage-keras-hub"
ENOUGH = 0.4
HEADER = "| backbone | parameters | gone | by hand | time | what stays where little goes |"


def count(name: str, factor: float) -> int:
    """Parameters of the network at this share of its widths."""
    return int(BACKBONES[name](factor)[0].count_params())


def row(name: str) -> tuple[str, float]:
    """The line of the table, and the share that went."""
    by_hand = 1 - count(name, 0.5) / count(name, 1.0)
    keras.utils.set_random_seed(0)
    model, inputs = BACKBONES[name](1.0)
    half = cut_half(model, inputs)
    shown = half.stays if half.gone < by_hand - 0.15 else ""
    cells = (
        f"{half.parameters:,}",
        f"{half.gone:.0%}",
        f"{by_hand:.0%}",
        f"{half.seconds:.1f} s",
        shown,
    )
    return f"| {name} | {' | '.join(cells)} |", half.gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(BACKBONES))
    parser.add_argument("--write", action="store_true", help="write the table of docs/coverage.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, enough = [HEADER, "|---|---|---|---|---|---|"], 0
    for name in arguments.names:
        try:
            line, gone = row(name)
            enough += gone >= ENOUGH
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
            message = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            line = f"| {name} | | no: {message} | | | |"
        print(line, flush=True)
        rows.append(line)
    words = (
        f"On {keras.backend.backend()}'s backend {enough} of {len(arguments.names)} lose at least "
        f"{ENOUGH:.0%} of their parameters."
    )
    print(words)
    if arguments.write:
        put(PAGE, MARK, f"{words}\n\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
