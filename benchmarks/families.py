"""What can go of families beyond image classifiers, beside a count by hand.

    python benchmarks/families.py                      # all that are installed; a table
    python benchmarks/families.py graph:GCN speech:Wav2Vec2

Half of the channels by the L1 norm, proven. The count by hand is the same network built at half of
its widths: what that one has fewer parameters is what half of the channels should take. It wants
``pip install torch_geometric diffusers monai`` for the families of these.
"""

import argparse
import signal
import time
import warnings

import torch

import secateurs as sec
from support import torchvision_on_cpu  # noqa: F401 - before transformers
from support.families import FAMILIES, OUTPUTS

LIMIT = 120


class TooSlowError(Exception):
    """It did not end in time."""


def share_left(name: str) -> float:
    """Share of the parameters that the network at half of its widths has."""
    whole, half = (FAMILIES[name](factor)[0] for factor in (1.0, 0.5))
    return count(half) / count(whole)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def row(name: str) -> str:
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
    stays = "; ".join(f"{number}: {why[:100]}" for number, why in reasons[:2])
    cells = f"{count(model):,}", f"{gone:.0%}", f"{by_hand:.0%}", f"{seconds:.1f} s", stays
    return f"| {name} | {' | '.join(cells)} |"


def stop(*_: object) -> None:
    raise TooSlowError(f"did not end in {LIMIT} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    print("| network | parameters | gone | by hand | time | what stays, and why |")
    print("|---|---|---|---|---|---|")
    for name in arguments.names:
        signal.alarm(LIMIT)
        try:
            print(row(name), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
            said = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            print(f"| {name} | | no: {said} | | | |", flush=True)
        finally:
            signal.alarm(0)


if __name__ == "__main__":
    main()
