"""Script: what several processes add up, collect and take from the first of them.

``torchrun --nproc-per-node 2 -m support.peered DIR`` writes it to ``DIR/process-N.json``.
"""

import json
import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState

import secateurs as sec
from secateurs.pytorch.training.processes import Processes


def budget_error():
    raise sec.BudgetError("too small")


def main(place):
    peers = Processes(sec.Training()).peers
    number = peers.rank + 1
    arrays = [np.full((2, 2), number / 3), np.array(number), np.zeros(0)]
    found = {
        "count": peers.count,
        "total": [one.tolist() for one in peers.total(arrays)],
        "nothing": peers.total([]),
        "gathered": peers.gather({"rank": peers.rank}),
        "in main": peers.gather_in_main(np.full(2, number).tolist()),
        "main": peers.from_main(lambda: number),
    }
    try:
        peers.from_main(budget_error)
    except sec.BudgetError as error:
        found["error"] = str(error)
    (place / f"process-{peers.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    PartialState().destroy_process_group()
