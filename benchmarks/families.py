"""What can go of families beyond image classifiers, beside a count by hand.

    python benchmarks/families.py                      # all that are installed; a table
    python benchmarks/families.py graph:GCN speech:Wav2Vec2

Half of the channels by the L1 norm, proven. The count by hand is the same network built at half of
its widths: what that one has fewer parameters is what half of the channels should take; none where
a network's widths are no arguments of its own. It wants ``pip install torch_geometric diffusers
monai`` for the families of these. ``--write`` puts the table into docs/coverage.md.
"""

import argparse
import signal
import time
import warnings
from pathlib import Path

import torch

import secateurs as sec
from support import torchvision_on_cpu  # noqa: F401 - before transformers
from support.families import FAMILIES, OUTPUTS
from support.tables import put

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
MARK = "coverage-families"
HALF = 0.5
LEAST_BY_HAND = 0.3
"""Below this the widths were not halved: they are no arguments of the network's."""
LIMIT = 120


HEADER = "| network | parameters | outputs in use | gone | by hand | time | what stays |"


class TooSlowError(Exception):
    """It did not end in time."""


def share_left(name: str) -> float:
    """Share of the parameters that the network at half of its widths has."""
    whole, half = (FAMILIES[name](factor)[0] for factor in (1.0, 0.5))
    return count(half) / count(whole)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def row(name: str) -> tuple[str, float]:
    """The line of the table, and the share that went."""
    torch.manual_seed(0)
    by_hand = 1 - share_left(name)
    torch.manual_seed(0)
    model, inputs = FAMILIES[name](1.0)
    model.eval()
    start = time.process_time()
    network = sec.trace(model, inputs, outputs=OUTPUTS.get(name))
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5, floor=1)
    small = sec.apply(model, cut, inputs, network=network)
    seconds = time.process_time() - start
    gone = 1 - count(small) / count(model)
    reasons = sorted(
        ((sum(frozen.count for frozen in of), why) for why, of in network.frozen_for.items()),
        reverse=True,
    )
    stays = "; ".join(f"{number}: {why[:160]}" for number, why in reasons[:2])
    hand = f"{by_hand:.0%}" if by_hand > LEAST_BY_HAND else ""
    shown = stays if gone < by_hand - 0.1 else ""
    outputs = ", ".join(OUTPUTS.get(name, ()))
    cells = f"{count(model):,}", outputs, f"{gone:.0%}", hand, f"{seconds:.1f} s", shown
    return f"| {name} | {' | '.join(cells)} |", gone


def stop(*_: object) -> None:
    raise TooSlowError(f"did not end in {LIMIT} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parser.add_argument("--write", action="store_true", help="write the table of docs/coverage.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    rows, half = [HEADER, "|---|---|---|---|---|---|---|"], 0
    for name in arguments.names:
        signal.alarm(LIMIT)
        try:
            line, gone = row(name)
            half += gone >= HALF
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
            message = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            line = f"| {name} | | | no: {message} | | | |"
        finally:
            signal.alarm(0)
        print(line, flush=True)
        rows.append(line)
    words = f"{half} of {len(arguments.names)} lose at least half of their parameters."
    print(words)
    if arguments.write:
        put(PAGE, MARK, f"{words}\n\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
