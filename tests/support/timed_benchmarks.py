"""Benchmarks with durations chosen by the test."""

import torch
from torch import nn

from secateurs.measurement import benchmarks
from secateurs.measurement.timing import Timing


def model(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 10))


def time_by_width(monkeypatch):
    """Each run takes as many milliseconds as its model is wide, on a slope of its own a pass."""
    widths = {}

    def compare(runs, reference, **options):
        times = {name: [w * (1 + p / 100) for p in range(20)] for name, w in widths.items()}
        return {
            name: Timing(
                tuple(seconds), tuple(a / b for a, b in zip(seconds, times[reference], strict=True))
            )
            for name, seconds in times.items()
        }

    monkeypatch.setattr(benchmarks, "compare_times", compare)
    return widths
