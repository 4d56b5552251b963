"""Pruning to what only a cut model can tell: real models, measured by an independent route."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import LatencyModel, Samples
from secateurs.measurement.timing import Timing
from secateurs.planning.meeting import TimedForesight, Timer


@pytest.fixture(scope="module")
def classifier():
    """Two classes told apart by one direction; eight of 64 hidden neurons do all the work."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.01)
        for i in range(8):
            model[0].weight[i] = 0
            model[0].weight[i, i] = 1 + 0.1 * i
            model[2].weight[:, i] = (
                torch.tensor([0.1 * (i + 1), 0]) if i % 2 else torch.tensor([0, 0.1 * (i + 1)])
            )
        model[0].bias.zero_()
        model[2].bias.zero_()
    images = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    return model, images.numpy(), labels.numpy()


def accuracy(model, images, labels):
    with torch.no_grad():
        return float((model(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def test_the_smallest_model_within_a_drop_of_accuracy(classifier):
    model, images, labels = classifier
    found = sec.prune(
        model, images[:1], sec.Budget(drop=0.05), validation=(images, labels), floor=1
    )
    assert accuracy(model, images, labels) == 1
    assert accuracy(found.model, images, labels) >= 0.95
    assert found.model[0].out_features <= 8  # what does nothing is gone
    assert len(found.trials) <= 9
    direct = sec.prune(
        model,
        images[:1],
        sec.Budget(drop=0.05),
        validation=lambda one: accuracy(one, images, labels),
        floor=1,
    )
    assert direct.cut == found.cut


def test_a_drop_of_accuracy_is_a_share_and_of_ones_own_metric_in_its_units(classifier):
    model, images, labels = classifier
    with pytest.raises(sec.BudgetError, match=r"received int 2\. 2 points are drop=0.02"):
        sec.prune(model, images[:1], sec.Budget(drop=2), validation=(images, labels))
    made = sec.prune(
        model, images[:1], sec.Budget(drop=2), validation=lambda net: 100.0, calibration=images
    )
    assert all(trial.holds for trial in made.trials)


def test_a_drop_without_data_or_without_classes_is_refused(classifier):
    model, images, _ = classifier
    with pytest.raises(sec.DataError, match="drop: expected data to measure the drop on"):
        sec.prune(model, images[:1], "drop=0.01")
    with pytest.raises(sec.DataError, match=r"drop: expected data.*received a model, Sequential"):
        sec.prune(model, images[:1], "drop=0.01", validation=model)


def test_peak_memory_equals_a_count_by_hand():
    from secateurs.pytorch.memory import peak_memory

    model = nn.Sequential(
        nn.Linear(10, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 5, bias=False)
    )
    # Weights, input, and at the most two wide activations: of the layer and of the ReLU.
    assert peak_memory(model, torch.zeros(3, 10)) == 4 * (10_000 + 5000 + 30 + 2 * 3000)
    chain = nn.Sequential(*(nn.ReLU() for _ in range(9)))
    assert peak_memory(chain, torch.zeros(100)) == 4 * 300  # the input is the caller's all along


def test_the_largest_model_within_a_memory():
    from secateurs.pytorch.memory import peak_memory

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 100))
    x = torch.zeros(16, 100)
    found = sec.prune(model, x, sec.Budget(peak_memory_mb=0.5))
    small, dense = peak_memory(found.model, x), peak_memory(model, x)
    assert 0.47 * dense < small <= 0.5 * dense


def test_a_time_is_met_by_timing_the_result(classifier, tmp_path, monkeypatch):
    """Times are made up: a microsecond for each hidden neuron, and a fifth more than was fitted."""
    from secateurs.measurement.timing import Timing
    from secateurs.planning import meeting, profiling

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, images, _ = classifier

    def time_fit(self, cuts, repeats):
        kept = [64 - len(c.channels["0"].removed if c.channels else ()) for c in cuts]
        return [Timing((k / 1000,), (k / 64,)) for k in kept]

    def time_runs(runs, reference, **options):
        width = widths.pop()
        return {"the cut model": Timing((width / 1000,), (1.2 * width / 64,))}

    widths = []

    def runner(self, small, *rest):
        widths.append(small[0].out_features)

    monkeypatch.setattr(profiling.CutBench, "times", time_fit)
    monkeypatch.setattr(meeting, "compare_times", time_runs)
    monkeypatch.setattr("secateurs.pytorch.runner", lambda m, *rest: runner(None, m))
    found = sec.prune(model, images[:1], sec.Budget(latency=0.5, threads=1), multiple=1)
    assert 0.95 * 0.5 <= 1.2 * found.model[0].out_features / 64 <= 0.5
    assert len(found.trials) == 2
    assert np.isclose(found.trials[0].measured["latency"], 1.2 * 31 / 1000, rtol=0.05)


def test_what_is_timed_on_the_way_to_a_budget_is_learned_from():
    """Of a latency model that takes arithmetic for all there is; half of the time is constant."""
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    network = sec.trace(model, torch.zeros(1, 16))
    samples = Samples.of_dense(network)
    cuts = [network.cut({"0": list(range(gone))}) for gone in (8, 16, 24, 32, 40, 48)]
    for cut in cuts[:3]:
        samples = samples.with_cut(network, cut, network.macs(cut) / network.macs(), 0.01)
    known = LatencyModel.fit(Conditions(threads=1), 2, 3.0, samples)
    timer = Timer(network, known)
    foresight = TimedForesight(network, known, timer, ["latency", "throughput"])
    before, _ = foresight.foresee(cuts[4])
    assert before["latency"] == pytest.approx(3.0 * network.macs(cuts[4]) / network.macs(), rel=0.1)
    assert before["throughput"] == pytest.approx(before["latency"] / 2)
    foresight.learn(cuts[3])  # nothing was timed yet
    assert foresight.foresee(cuts[4])[0] == before
    for cut in cuts[3:]:
        share = (1 + network.macs(cut) / network.macs()) / 2
        timer.latest = Timing((3.0 * share,) * 3, (share,) * 3)
        foresight.learn(cut)
    after, doubt = foresight.foresee(cuts[4])
    real = 3.0 * (1 + network.macs(cuts[4]) / network.macs()) / 2
    assert after["latency"] == pytest.approx(real, rel=0.06)
    assert doubt < 0.1
