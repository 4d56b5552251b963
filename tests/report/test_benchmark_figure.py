import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.measurement import benchmarks
from secateurs.measurement.timing import Timing
from secateurs.report.benchmark_figure import speedups


def model(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.fixture
def timed(monkeypatch):
    """Each run takes as many milliseconds as its model is wide, on a slope of its own a pass."""
    widths = {}

    def compare(runs, reference, **options):
        times = {name: [w * (1 + p / 100) for p in range(20)] for name, w in widths.items()}
        return {
            name: Timing(
                tuple(own), tuple(a / b for a, b in zip(own, times[reference], strict=True))
            )
            for name, own in times.items()
        }

    monkeypatch.setattr(benchmarks, "compare_times", compare)
    return widths


def test_the_figure_says_both_ratios(timed):
    timed |= {"dense": 40.0, "small": 20.0}
    found = sec.bench([model(40), model(10)], torch.randn(1, 10))
    (axes,) = speedups(found).axes
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(2)]
    marks = next(line for line in axes.lines if line.get_gid() == "fewer-macs")
    assert list(marks.get_xdata()) == [4]
