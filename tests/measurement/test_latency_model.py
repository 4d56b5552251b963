"""The latency model: its terms by hand, its fit on known times."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import (
    TERMS,
    LatencyModel,
    Samples,
    WidthTerms,
    fit,
    is_depthwise,
)
from secateurs.planning.profiling import best_multiple, profile_network, random_cuts
from support.small_networks import Attention, images


class Depthwise(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            nn.ReLU(),
            nn.Conv2d(32, 48, 1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        )


@pytest.fixture
def network():
    torch.manual_seed(0)
    return sec.trace(Depthwise(), torch.randn(1, 3, 8, 8))


def terms_by_hand(a, b):
    """Of widths a (first and depthwise convolution) and b, at 8x8 pixels."""

    def whole(n):
        return -(-n // 16) * 16

    macs = {"3x3": 64 * 27 * a, "depthwise": 64 * 9 * a, "1x1": 64 * a * b, "linear": 10 * b}
    moved = {"3x3": 64 * (a + 3), "depthwise": 128 * a, "1x1": 64 * (a + b), "linear": 10 + b}
    return {
        "constant": 1,
        "macs of 1x1": macs["1x1"] + macs["linear"],
        "macs of kxk": macs["3x3"],
        "macs in whole vectors": 64 * 9 * whole(3) * whole(a)
        + 64 * whole(a) * whole(b)
        + whole(10) * whole(b),
        "macs, no multiple of 16": macs["3x3"] * (a % 16 > 0)
        + macs["1x1"] * (b % 16 > 0)
        + macs["linear"],  # ten classes
        "depthwise macs": macs["depthwise"],
        "depthwise, no multiple of 4": macs["depthwise"] * (a % 4 > 0),
        "depthwise, no multiple of 8": macs["depthwise"] * (a % 8 > 0),
        "depthwise, no multiple of 16": macs["depthwise"] * (a % 16 > 0),
        "numbers moved": sum(moved.values()),
        "numbers moved, no multiple of 4": (moved["3x3"] + moved["depthwise"]) * (a % 4 > 0)
        + moved["1x1"] * (b % 4 > 0)
        + moved["linear"] * (10 % 4 > 0),
        "weights": 27 * a + a * b + 10 * b,
        "attention scores": 0,
    }


@pytest.mark.parametrize(("first", "second"), [(32, 48), (20, 33), (17, 48), (24, 16)])
def test_terms_are_those_counted_by_hand(network, first, second):
    cut = network.cut({"0": list(range(32 - first)), "4": list(range(48 - second))})
    found = WidthTerms(network).of(network.alive(network.removed_by(cut)))
    expected = terms_by_hand(first, second)
    assert dict(zip(TERMS, found, strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize(("heads", "channels"), [(2, 4), (1, 4), (2, 3), (1, 1)])
def test_scores_of_an_attention_are_counted_by_hand(heads, channels):
    """4 positions: each head makes 16 scores, and the product with the values reads them."""
    network = sec.trace(Attention(), torch.from_numpy(images()[:1]))
    kept = {"qkv.heads": (2, heads), "qkv.head_width": (4, channels)}
    cut = network.cut({name: list(range(of - left)) for name, (of, left) in kept.items()})
    found = WidthTerms(network).of(network.alive(network.removed_by(cut)))
    assert found[TERMS.index("attention scores")] == 2 * heads * 4 * 4


def test_only_depthwise_weights_are_taken_for_such(network):
    message = {name: is_depthwise(network, tensor) for name, tensor in network.tensors.items()}
    assert [name for name, is_one in message.items() if is_one] == ["2.weight"]


def time_cuts(network, cuts, times):
    """Cuts whose times, relative to the dense network's, are known."""
    samples = Samples.of_dense(network)
    for cut, time in zip(cuts, times, strict=True):
        samples = samples.with_cut(network, cut, time, 0.0)
    return samples


def test_times_that_follow_the_terms_are_found_again(network):
    truth = np.zeros(len(TERMS))
    truth[[0, 2, 4, 5]] = (0.05, 3e-7, 2e-6, 5e-6)
    cuts = list(random_cuts(network, 24, seed=1))
    rows = [WidthTerms(network).of(network.alive(network.removed_by(cut))) for cut in cuts]
    whole = WidthTerms(network).of(network.alive()) @ truth
    ratios = np.array(rows) @ truth / whole
    costs, residuals, errors = fit(time_cuts(network, cuts, ratios))
    assert np.abs(errors).max() < 1e-6
    assert (np.array(rows) @ costs) == pytest.approx(ratios, rel=1e-9)
    assert np.abs(residuals.off).max() < 1e-6
    noisy = ratios * (1 + 0.03 * np.random.default_rng(0).standard_normal(24))
    assert 0.005 < np.median(np.abs(fit(time_cuts(network, cuts, noisy))[2])) < 0.1


def test_timings_correct_predictions_for_similar_cuts(network):
    """Times are of the MACs alone, but for narrow first layers, which no term says."""

    def time(cut):
        share = network.macs(cut) / network.macs()
        width = 32 - len(cut.channels["0"].removed if "0" in cut.channels else ())
        return share * (1.5 if width <= 12 else 1.0)

    cuts = [cut for cut in random_cuts(network, 24, seed=1) if time(cut) < 1]
    wide = [cut for cut in cuts if time(cut) == network.macs(cut) / network.macs()]
    found = LatencyModel.fit(Conditions(), 1, 2.0, time_cuts(network, wide, map(time, wide)))
    planned = network.cut({"0": list(range(22)), "4": list(range(16))})
    nearly = network.cut({"0": list(range(21)), "4": list(range(16))})

    def off(model, cut):
        alive = network.alive(network.removed_by(cut))
        return model.predictor(network)(alive) / (2.0 * time(cut)) - 1

    def doubt(model):
        return model.doubt(network, network.alive(network.removed_by(nearly)))

    learned = found.learn(network, planned, time(planned), 0.01)
    assert off(found, nearly) < -0.25
    assert abs(off(learned, nearly)) < 0.1
    assert doubt(learned) < 0.1
    assert len(learned.samples) == len(found.samples) + 1


def test_a_model_that_was_not_fitted_learns_nothing_and_is_not_kept(network):
    by_hand = LatencyModel(Conditions(), 1, 2.0, (0.1,) * len(TERMS), (0.02, -0.01), 8, {})
    assert by_hand.learn(network, network.cut({}), 0.5, 0.01) is by_hand
    assert by_hand.doubt(network, network.alive()) == pytest.approx(0.015)
    with pytest.raises(sec.MeasurementError, match="received only costs"):
        by_hand.to_json()


def test_the_smallest_multiple_that_is_nearly_the_fastest_is_taken():
    half = 0.5
    assert best_multiple({1: (1.3, half), 4: (0.7, half), 8: (0.62, half), 16: (0.6, half)}) == 8
    assert best_multiple({1: (0.61, half), 8: (0.6, half)}) == 1
    assert best_multiple({1: (0.6, 0.5), 16: (0.3, 0.2)}) == 1  # it went further, for more
    assert best_multiple({}) == 1


def test_a_model_is_measured_kept_and_read_again(network, tmp_path, monkeypatch):
    """Times are made up: one multiply-accumulate takes a nanosecond, off the fast path ten."""
    from secateurs.measurement.timing import Timing
    from secateurs.planning import profiling

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def times(self, cuts, repeats):
        made.extend(cuts)
        dense = terms_by_hand(32, 48)
        found = []
        for cut in cuts:
            a = 32 - len(cut.channels["0"].removed if "0" in cut.channels else ())
            b = 48 - len(cut.channels["4"].removed if "4" in cut.channels else ())
            took, whole = (
                t["macs of kxk"] + 9 * t["depthwise, no multiple of 4"] + t["macs of 1x1"]
                for t in (terms_by_hand(a, b), dense)
            )
            found.append(Timing((took / 1e6,) * 3, (took / whole,) * 3))
        return found

    monkeypatch.setattr(profiling.CutBench, "times", times)
    conditions = Conditions(threads=1)
    found = profile_network(network, conditions, cuts=20)
    assert found.multiple == best_multiple(found.at_multiples)
    assert set(found.at_multiples) == {1, 4, 8, 16}
    assert found.largest_error < 0.01
    milliseconds = found.predictor(network)
    for cut in random_cuts(network, 5, seed=9):
        a, b = (
            n - len(cut.channels[name].removed if name in cut.channels else ())
            for name, n in (("0", 32), ("4", 48))
        )
        t = terms_by_hand(a, b)
        expected = t["macs of kxk"] + 9 * t["depthwise, no multiple of 4"] + t["macs of 1x1"]
        alive = network.alive(network.removed_by(cut))
        assert milliseconds(alive) == pytest.approx(expected / 1e6, rel=0.02)
    count = len(made)
    assert profile_network(network, conditions, cuts=20) == found
    assert len(made) == count  # it was read
    monkeypatch.setattr(profiling, "machine", lambda: {"processor": "another"})
    profile_network(network, conditions, cuts=20)
    assert len(made) == 2 * count  # another machine's is not taken


def test_a_file_of_something_else_is_refused():
    with pytest.raises(sec.MeasurementError, match="expected a latency model"):
        LatencyModel.from_json('{"terms": ["constant"]}')


def test_a_real_model_is_measured_for_real(tmp_path, monkeypatch):
    """On whatever machine this is: wide layers take longer, and the report says how long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 256))
    try:
        found = sec.profile(model, torch.randn(4, 256), threads=1, cuts=8)
    except sec.MeasurementError as error:
        assert "too noisy" in str(error)  # noqa: PT017 - of a machine that is busy indeed
        pytest.skip(str(error))
    network = sec.trace(model, torch.randn(4, 256))
    quarter = network.cut({"0": list(range(1536))})
    milliseconds = found.predictor(network)
    share = milliseconds(network.alive(network.removed_by(quarter))) / milliseconds(network.alive())
    assert 0.1 < share < 0.7
    assert "ms dense" in str(found)
    assert found.images == 4
