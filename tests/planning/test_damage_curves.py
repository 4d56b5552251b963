"""Sensitivity: measured, saved, and used by plans."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import secateurs as sec
from secateurs.criteria import score
from secateurs.errors import DataError, SecateursError, StudyError, UnknownNameError
from secateurs.planning.damage_curves import Sensitivity, measurements, sensitivity
from support.small_networks import Residual, images, labels

X, Y = images(16), labels(16)
AMOUNTS = (0.25, 0.5, 0.75)


class NoNorm(torch.nn.Module):
    """Two hidden layers and nothing that statistics are taken of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Linear(6, 8)
        self.two = torch.nn.Linear(8, 12)
        self.last = torch.nn.Linear(12, 4)

    def forward(self, x):
        return self.last(self.two(self.one(x).relu()).relu())


FLAT = np.random.default_rng(3).standard_normal((20, 6)).astype(np.float32)
CLASSES = np.arange(20) % 4


@pytest.fixture
def network():
    return sec.trace(NoNorm().eval(), FLAT[:1])


def test_each_point_is_the_loss_of_the_model_cut_there_alone(network):
    found = sensitivity(network, (FLAT, CLASSES), amounts=AMOUNTS)
    scores = score(network, "l1")
    model = network.source.model
    for group in network.groups:
        for share, loss, right in zip(
            found.shares[group.name],
            found.losses[group.name],
            found.accuracies[group.name],
            strict=True,
        ):
            count = round(share * len(group))
            gone = np.argsort(scores[group.name], kind="stable")[:count].tolist()
            small = sec.delete_channels(model, {group.name: gone}, FLAT[:1]) if gone else model
            with torch.no_grad():
                outputs = small(torch.from_numpy(FLAT))
            assert loss == pytest.approx(F.cross_entropy(outputs, torch.from_numpy(CLASSES)).item())
            assert right == pytest.approx((outputs.argmax(1).numpy() == CLASSES).mean())
    assert found.shares["two"].tolist() == [0, 0.25, 0.5, 0.75]
    assert found.images == 20


def build_curves(one, two):
    shares = np.array([0, 0.25, 0.5, 0.75])
    return Sensitivity(
        {"one": shares, "two": shares},
        {"one": np.array(one, float), "two": np.array(two, float)},
        {},
        "l1",
        20,
    )


def test_damage_never_falls_and_is_straight_between_and_beyond():
    found = build_curves([1, 1.4, 1.2, 2], [1, 0.9, 0.9, 1.1])
    at = np.array([0, 0.125, 0.25, 0.5, 0.625, 0.75, 0.875])
    np.testing.assert_allclose(found.damage("one", at), [0, 0.2, 0.4, 0.4, 0.7, 1.0, 1.3])
    np.testing.assert_allclose(found.damage("two", at), [0, 0, 0, 0, 0.05, 0.1, 0.15])


def test_limits_are_the_largest_shares_within_the_rise():
    found = build_curves([1, 1.4, 1.5, 2], [1, 0.9, 0.9, 1.1])
    assert found.limits(0.05) == {"one": 0.0, "two": 0.5}
    assert found.limits(0.45) == {"one": 0.25, "two": 0.75}


def test_a_plan_takes_from_each_group_what_the_same_rise_allows(network):
    scores = score(network, "l1")
    # 'two' can lose half for nothing; a quarter of 'one' costs what three quarters of 'two' do.
    found = build_curves([1, 1.4, 1.8, 2.2], [1, 1, 1, 1.4])
    cut = sec.plan(network, scores, amount=8 / 20, sensitivity=found)
    assert {name: len(channels.removed) for name, channels in cut.channels.items()} == {
        "one": 1,
        "two": 7,
    }
    cut = sec.plan(network, scores, amount=11 / 20, sensitivity=found)
    assert {name: len(channels.removed) for name, channels in cut.channels.items()} == {
        "one": 2,
        "two": 9,
    }
    lowest = np.sort(np.argsort(scores["two"], kind="stable")[:9])
    assert list(cut.channels["two"].removed) == lowest.tolist()


def test_what_costs_nothing_is_shared_out(network):
    level = build_curves([1, 1, 1, 1], [1, 1, 1, 1])
    cut = sec.plan(network, score(network, "l1"), amount=0.5, sensitivity=level)
    assert {name: len(channels.removed) for name, channels in cut.channels.items()} == {
        "one": 4,
        "two": 6,
    }


def test_it_is_kept_and_taken_again_for_the_same_model_and_images(network, tmp_path):
    cache = tmp_path / "sensitivity.json"
    ticks = []
    first = sensitivity(
        network, (FLAT, CLASSES), amounts=AMOUNTS, cache=cache, tick=lambda: ticks.append(1)
    )
    assert len(ticks) == measurements(network, AMOUNTS) == 6
    again = sensitivity(
        network, (FLAT, CLASSES), amounts=AMOUNTS, cache=cache, tick=lambda: ticks.append(1)
    )
    assert len(ticks) == 6
    for name in first.losses:
        np.testing.assert_array_equal(first.losses[name], again.losses[name])
    for changed in (
        {"data": (FLAT + 1, CLASSES)},
        {"criterion": "l2"},
        {"amounts": (0.5,)},
    ):
        data = changed.pop("data", (FLAT, CLASSES))
        options = {"amounts": AMOUNTS} | changed
        before = len(ticks)
        sensitivity(network, data, cache=cache, tick=lambda: ticks.append(1), **options)
        assert len(ticks) > before
    with torch.no_grad():
        network.source.model.one.weight.mul_(2)
    before = len(ticks)
    sensitivity(network, (FLAT, CLASSES), amounts=(0.5,), cache=cache, tick=lambda: ticks.append(1))
    assert len(ticks) > before


def test_statistics_of_normalisation_are_reestimated():
    model = Residual().eval()
    network = sec.trace(model, X[:1])
    found = sensitivity(network, (X, Y), amounts=(0.5,))
    model.train()  # batch statistics of all images are what recalibration comes to
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
    with torch.no_grad():
        dense = F.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(Y)).item()
    # Running variances are unbiased, batch variances are not: 16 x 8 x 8 values a channel.
    assert found.losses["stem"][0] == pytest.approx(dense, rel=5e-3)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": "other", "version": 1}'])
def test_a_file_of_other_content_is_refused(network, tmp_path, content):
    cache = tmp_path / "sensitivity.json"
    cache.write_text(content)
    with pytest.raises(StudyError, match="cannot be read as a sensitivity"):
        sensitivity(network, (FLAT, CLASSES), cache=cache)


def test_bad_input(network):
    with pytest.raises(SecateursError, match=r"expected amounts in \(0, 1\); received \[1.5\]"):
        sensitivity(network, (FLAT, CLASSES), amounts=[1.5])
    with pytest.raises(DataError, match="sensitivity: expected calibration data; received none"):
        sensitivity(network, None)
    other = Sensitivity({}, {"elsewhere": np.zeros(1)}, {}, "l1", 1)
    with pytest.raises(UnknownNameError, match="sensitivity: one was not measured"):
        sec.plan(network, score(network, "l1"), amount=0.5, sensitivity=other)


@pytest.mark.parametrize("cache", ["file/below.json", "/proc/there/s.json"])
def test_an_unwritable_cache_is_reported_before_measuring(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    network = sec.trace(Residual(), images(1))
    ticks = []
    with pytest.raises(StudyError, match=cache):
        sensitivity(network, (images(8), labels(8)), cache=cache, tick=lambda: ticks.append(1))
    assert not ticks


def test_losses_near_the_largest_number_are_infinite_only_beyond_what_was_measured():
    shares = np.array([0, 0.25, 0.5])
    curve = Sensitivity({"a": shares}, {"a": np.array([0, 1, 1.7e308])}, {}, "l1", 1)
    with np.errstate(all="raise"):
        found = curve.damage("a", np.array([0.25, 0.5, 0.75]))
    assert found.tolist() == [1, 1.7e308, np.inf]
