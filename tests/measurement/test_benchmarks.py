"""Models side by side: what is measured, and its table, JSON and figure."""

import json

import pytest
import torch
from torch import nn

import secateurs as sec
from support.timed_benchmarks import model, time_by_width


@pytest.fixture
def timer(monkeypatch):
    return time_by_width(monkeypatch)


def test_the_reported_statistics_of_times(timer):
    timer |= {"dense": 40.0, "small": 50.0}
    found = sec.bench([model(40), model(10)], torch.randn(1, 10), batches=(1, 8))
    assert [(row.model, row.images) for row in found.rows] == [
        ("dense", 1),
        ("small", 1),
        ("dense", 8),
        ("small", 8),
    ]
    dense, small = found.rows[2:]
    assert dense.timing.median == pytest.approx(40 * 1.095)
    assert dense.throughput == pytest.approx(8000 / (40 * 1.095))
    assert small.speedup == pytest.approx(0.8)
    assert small.macs_ratio == 4
    assert dense.peak_memory_mb == pytest.approx(4 * (400 + 40 + 400 + 10 + 10 + 80) / 1e6)
    table = str(found)
    assert "small is not faster under eager, batch 8, 1 thread: 0.80 times, for 4.00" in table
    plain = json.loads(found.to_json())
    assert plain["rows"][3]["speedup"] == pytest.approx(0.8)
    assert plain["rows"][3]["milliseconds"]["p95"] == pytest.approx(50 * 1.1805)
    assert plain["machine"]["cores"]


def test_a_failing_runtime_is_reported_and_the_others_are_measured(timer, monkeypatch):
    from secateurs import pytorch

    real = pytorch.runner

    def runner(one, inputs, conditions):
        if conditions.runtime == "compile":
            raise sec.MeasurementError("compile: no compiler")
        return real(one, inputs, conditions)

    monkeypatch.setattr(pytorch, "runner", runner)
    timer |= {"a": 1.0}
    found = sec.bench({"a": model(4)}, torch.randn(1, 10), runtimes=("compile", "eager"))
    assert len(found.rows) == 1
    assert "compile: no compiler" in str(found)
    with pytest.raises(sec.MeasurementError, match="no compiler"):
        sec.bench({"a": model(4)}, torch.randn(1, 10), runtimes=("compile",))


@pytest.mark.parametrize("runtime", ["eager", "channels-last", "onnxruntime", "openvino"])
def test_every_runtime_runs_the_model_itself(runtime):
    """What a run gives is what the model gives, on as many examples as were asked for."""
    from secateurs.measurement.conditions import Conditions
    from secateurs.pytorch import runner

    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(8 * 36, 5))
    x = torch.randn(2, 3, 8, 8)
    run = runner(net.train(), x, Conditions(runtime=runtime, batch=5, threads=1))
    found = run()
    found = torch.as_tensor(found[0] if isinstance(found, list) else found)
    with torch.no_grad():
        expected = net.eval()(x[[0, 1, 0, 1, 0]])
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert net.train().training
