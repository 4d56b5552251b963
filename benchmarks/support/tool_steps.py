"""Processor time of the tool's steps on one model: trace, score, plan, and each way to apply."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import secateurs as sec


def time_steps(model: Any, x: Any, applied: Mapping[str, bool]) -> dict[str, float]:
    """Seconds that each step takes, half of the channels of every layer by the L1 norm.

    Args:
        model: a fresh model, unchanged.
        x: its example input.
        applied: name of a step -> whether what it applies is proven.
    """
    clock = [time.process_time()]
    network = sec.trace(model, x)
    clock.append(time.process_time())
    scores = sec.score(network, "l1")
    clock.append(time.process_time())
    cut = sec.plan(network, scores, amount=0.5)
    clock.append(time.process_time())
    for proof in applied.values():
        sec.apply(model, cut, x, network=network, proof=proof)
        clock.append(time.process_time())
    steps = (end - start for start, end in itertools.pairwise(clock))
    return dict(zip(("trace", "score", "plan", *applied), steps, strict=True))
