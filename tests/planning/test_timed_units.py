"""Time limits: parsed, converted to milliseconds, predicted by a latency model, and met."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import TERMS, LatencyModel
from secateurs.planning.budget import UNITS
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 100), nn.Linear(100, 10))
    return sec.trace(model, torch.randn(2, 10))


@pytest.fixture(scope="module")
def latency_model():
    """One millisecond whatever is cut, and a microsecond for each multiply-accumulate."""
    costs = np.zeros(len(TERMS))
    costs[TERMS.index("constant")], costs[TERMS.index("macs of 1x1")] = 1.0, 1e-3
    dense = 1 + 1e-3 * 2 * (1000 + 10_000 + 1000)
    return LatencyModel(Conditions(threads=1), 2, dense, tuple(costs), (0.0,), 4, {})


def milliseconds(network, cut):
    return 1 + 1e-3 * network.macs(cut)


@pytest.mark.parametrize(
    ("budget", "most"),
    [
        (sec.Budget(latency=0.5), 12.5),
        (sec.Budget(latency_ms=10), 10.0),
        (sec.Budget(throughput=500), 4.0),  # two examples a call
        (sec.Budget(speedup=4), 6.25),
        (sec.Budget(latency=0.5, macs=0.2), 1 + 0.2 * 24),
    ],
)
def test_limits_of_time_are_met_as_predicted(network, latency_model, budget, most):
    scores = sec.score(network, "l1")
    cut = sec.plan(network, scores, budget, latency_model=latency_model, multiple=1)
    # A channel more takes 0.42 ms at the widest.
    assert most - 0.5 < milliseconds(network, cut) <= most + 1e-9


def test_widths_are_of_the_multiple_that_was_measured(network, latency_model):
    scores = sec.score(network, "l1")
    cut = sec.plan(network, scores, sec.Budget(latency=0.5), latency_model=latency_model)
    assert all((100 - len(one.removed)) % 4 == 0 for one in cut.channels.values())
    assert milliseconds(network, cut) <= 12.5


def test_a_limit_that_cannot_be_met_says_the_nearest(network, latency_model):
    scores = sec.score(network, "l1")
    with pytest.raises(sec.BudgetError, match=r"nearest that can be met is latency_ms=1\.6 ms"):
        sec.plan(network, scores, "latency_ms=1.2", latency_model=latency_model, multiple=1)


def test_what_is_predicted_is_shown_in_the_units_own_way(network, latency_model):
    predictor = Predictor(network, latency_model)
    dense = Candidate(network, network.alive())
    assert predictor.milliseconds(dense) == pytest.approx(25)
    units = sec.Budget(latency=0.5, throughput=100, speedup=2).units(network, latency_model)
    assert units["latency"].show(12.5) == "0.5 (12.5 ms)"
    assert units["throughput"].show(units["throughput"].predict(dense)) == "80 a second"
    assert units["speedup"].show(12.5) == "2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latency": 12}, r"For milliseconds: latency_ms=12"),
        ({"speedup": 0.5}, r"at least 1, such as 2; received 0.5"),
        ({"macs": 0.5, "threads": 1}, r"threads: describes how a model is timed; expected run"),
        ({"latency": 0.5, "threads": 0}, r"threads: expected a whole number above 0"),
    ],
)
def test_contradictory_limits_are_refused(given, message):
    with pytest.raises(sec.BudgetError, match=message):
        sec.Budget(**given)


def test_conditions_are_read_from_text_and_kept_in_settings():
    budget = sec.Budget.parse("latency=0.5,runtime=onnxruntime,threads=2,macs=0.9")
    assert budget.conditions == Conditions(runtime="onnxruntime", threads=2)
    assert sec.Budget.of(budget.as_plain) == budget
    at_hand = {"runtime": "onnxruntime", "threads": 2}
    assert budget.ablate("latency") == sec.Budget(macs=0.9, **at_hand)
    assert budget.ablate("latency").wants_speed
    assert not budget.ablate("latency").is_timed
    assert sec.Budget(drop=0.01, **at_hand).first_guess == sec.Budget(macs=0.5, **at_hand)
    with pytest.raises(sec.UnknownNameError, match="no runtime is called 'tensorrt'"):
        sec.Budget.parse("latency=0.5,runtime=tensorrt")


def test_a_time_without_a_latency_model_is_refused_with_the_remedy():
    expected = r"expected a latency model; received none. Use sec\.prune, sec\.plan"
    with pytest.raises(sec.BudgetError, match=expected):
        UNITS["latency"].predict(None)
