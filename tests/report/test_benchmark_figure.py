import pytest
import torch

import secateurs as sec
from secateurs.report.benchmark_figure import speedups
from support.timed_benchmarks import model, time_by_width


@pytest.fixture
def timer(monkeypatch):
    return time_by_width(monkeypatch)


def test_the_figure_says_both_ratios(timer):
    timer |= {"dense": 40.0, "small": 20.0}
    found = sec.bench([model(40), model(10)], torch.randn(1, 10))
    (axes,) = speedups(found).axes
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(2)]
    marks = next(line for line in axes.lines if line.get_gid() == "fewer-macs")
    assert list(marks.get_xdata()) == [4]
