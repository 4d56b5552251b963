from collections.abc import Callable

import numpy as np
import pytest

from secateurs.study.history import History

RESNET18 = {
    "conv1": 64,
    **{f"layer1.{block}.conv{conv}": 64 for block in (0, 1) for conv in (1, 2)},
    **{f"layer2.{block}.conv{conv}": 128 for block in (0, 1) for conv in (1, 2)},
    **{f"layer3.{block}.conv{conv}": 256 for block in (0, 1) for conv in (1, 2)},
    **{f"layer4.{block}.conv{conv}": 512 for block in (0, 1) for conv in (1, 2)},
    "layer2.0.through": 128,
    "layer3.0.through": 256,
    "layer4.0.through": 512,
}
DENSE_BATCHES, TUNING_BATCHES = 40_000, 8_000


def _cost(widths: dict[str, int]) -> dict[str, int]:
    params = sum(9 * width * width for width in widths.values())
    macs = sum(9 * width * width * 50_000 // (64 + width) for width in widths.values())
    return {
        "params": params,
        "macs": macs,
        "bytes": 4 * params,
        "channels": sum(widths.values()),
        "widths": widths,
    }


def _train(history: History, number: int, start: int, end: int, low: float, high: float) -> None:
    random = np.random.default_rng(number)
    for batch in range(start + 1000, end + 1, 1000):
        climbed = 1 - np.exp(-5.5 * (batch - start) / (end - start))
        accuracy = low + (high - low) * climbed + random.normal(0, 0.0015)
        history.append(
            "train",
            batch=batch,
            round=number,
            loss=1 - accuracy,
            validation_loss=1.1 - accuracy,
            accuracy=min(accuracy, 1.0),
            learning_rate=0.01,
            seconds=1.5,
        )


def _speed_record(history: History, number: int, ratio: float) -> None:
    history.append(
        "speed",
        round=number,
        images_per_second=210.0 * ratio,
        dense_images_per_second=210.0,
        ratio=ratio,
        low=0.97 * ratio,
        high=1.025 * ratio,
        batch_size=64,
        device="cpu",
        threads=2,
    )


@pytest.fixture
def make_history() -> Callable[..., History]:
    return make


def make(
    rounds: int = 31,
    layers: dict[str, int] | None = None,
    *,
    speeds: bool = True,
    stopped: bool = True,
    best_round: int | None = None,
    deepest: float = 0.08,
) -> History:
    """A history as the loop writes it: 5 % of the channels a round, as in the first document."""
    history = History()
    widths = dict(layers or RESNET18)
    dense = _cost(widths)
    history.append(
        "dense",
        round=0,
        batch=0,
        model="resnet18",
        data="vehicles",
        criterion="l1",
        seed=0,
        **dense,
    )
    _train(history, 0, 0, DENSE_BATCHES, 0.31, 0.952)
    for number in range(1, rounds + 1):
        start = DENSE_BATCHES + (number - 1) * TUNING_BATCHES
        before = sum(widths.values())
        widths = {
            name: max(4, round(width * (0.90 + 0.06 * (place % 3) / 2 + 0.02 * (place % 2))))
            for place, (name, width) in enumerate(widths.items())
        }
        dip = 0.953 - deepest * (number / max(rounds, 1)) ** 3
        history.append(
            "prune",
            batch=start,
            round=number,
            removed=before - sum(widths.values()),
            **_cost(widths),
            accuracy=dip,
            max_difference=3e-7 * number,
            tolerance=1e-4,
            inexact=[],
        )
        _train(history, number, start, start + TUNING_BATCHES, dip, 0.9545)
        if speeds:
            _speed_record(history, number, 1 + 0.65 * number / 31)
    if stopped:
        history.append(
            "stop",
            round=rounds,
            batch=DENSE_BATCHES + rounds * TUNING_BATCHES,
            reason="accuracy fell below the dense model's",
            best_round=rounds if best_round is None else best_round,
            accuracy=_last_accuracy(history, best_round or rounds),
            dense_accuracy=_last_accuracy(history, 0),
            test_accuracy=0.9497,
            dense_test_accuracy=0.9483,
        )
    return history


def _last_accuracy(history: History, number: int) -> float:
    return [one["accuracy"] for one in history.of("train") if one["round"] == number][-1]
