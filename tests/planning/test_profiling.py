from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.timing import Timing
from secateurs.planning import profiling
from secateurs.planning.group_kinds import kinds_of
from secateurs.planning.profiling import best_multiple, cost_at, profile_network, random_cuts


@pytest.fixture(scope="module")
def network():
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 40), nn.ReLU(), nn.Linear(40, 2)
    )
    return sec.trace(model, torch.zeros(1, 8))


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({}, 1),
        ({1: (0.5, 0.5), 8: (0.48, 0.5)}, 1),  # four per cent faster is near enough
        ({1: (0.5, 0.5), 8: (0.47, 0.5)}, 8),
        ({1: (0.9, 0.5), 4: (0.5, 0.5), 8: (0.5, 0.6)}, 8),  # by the time a MAC takes
    ],
)
def test_the_smallest_multiple_that_is_nearly_as_fast(times, best):
    assert best_multiple(times) == best


def test_cuts_of_random_widths_leave_something_of_every_group(network):
    cuts = list(random_cuts(network, 24, seed=1))
    again = list(random_cuts(network, 24, seed=1))
    assert [cut.channels for cut in cuts] == [cut.channels for cut in again]
    for number, cut in enumerate(cuts):
        step = (1, 4, 8, 16)[number % 4]
        for group in network.groups:
            gone = len(cut.channels[group.name].removed) if group.name in cut.channels else 0
            kept = len(group) - gone
            assert kept >= 1
            assert kept % step == 0 or kept == len(group)
    shares = [network.macs(cut) / network.macs() for cut in cuts]
    assert min(shares) < 0.4
    assert max(shares) > 0.7


def test_every_other_random_cut_has_the_multiples_that_plans_have(of_two_kinds):
    network, multiples = of_two_kinds, {"depthwise": 16, "1x1": 4, "kxk": 8}
    kinds = kinds_of(network)
    for number, cut in enumerate(random_cuts(network, 16, 1, multiples)):
        for group in network.groups:
            gone = len(cut.channels[group.name].removed) if group.name in cut.channels else 0
            usual = (1, 4, 8, 16)[number // 2 % 4]
            step = usual if number % 2 else multiples[kinds[group.name]]
            assert (len(group) - gone) % step == 0 or gone == 0


def test_plans_are_predicted_where_no_term_explains_the_time(monkeypatch, tmp_path):
    """Made-up times: of MACs, twice as much below three tenths of a layer.

    No sum of terms says so.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    widths = (64, 128, 96)
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((8, *widths, 4))]
    network = sec.trace(nn.Sequential(*layers), torch.zeros(1, 8, 6, 6))

    def time(cut):
        kept = [8, *(width - _count_removed(cut, place) for place, width in enumerate(widths)), 4]
        taken = [
            a * b * (2 if b < 0.3 * n else 1)
            for (a, b), n in zip(pairwise(kept), (*widths, 4), strict=True)
        ]
        return sum(taken) / sum(a * b for a, b in pairwise((8, *widths, 4)))

    def _count_removed(cut, place):
        name = str(place)
        return len(cut.channels[name].removed) if name in cut.channels else 0

    def times(self, cuts, repeats):
        return [Timing((time(cut),) * 3, (time(cut),) * 3) for cut in cuts]

    monkeypatch.setattr(profiling.CutBench, "times", times)
    found = profile_network(network, Conditions(threads=1))
    scores = sec.score(network, "l1")
    for share in (0.5, 0.25):
        for unit in ("macs", "latency"):
            asked = {unit: share, "runtime": "eager", "threads": 1}
            cut = sec.plan(network, scores, asked, latency_model=found, multiple=4)
            alive = network.alive(network.removed_by(cut))
            assert found.predictor(network)(alive) == pytest.approx(time(cut), rel=0.06)


def test_a_cut_that_fits_badly_is_timed_once_more(network, monkeypatch, tmp_path):
    """Every seventh timing is disturbed: what is asked for again is put right."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def times(self, cuts, repeats):
        found = []
        for cut in cuts:
            asked.append(repeats)
            share = network.macs(cut) / network.macs()
            slow = 3.0 if repeats == 9 and len(asked) % 7 == 0 else 1.0
            found.append(Timing((slow * share,) * 3, (slow * share,) * 3))
        return found

    monkeypatch.setattr(profiling.CutBench, "times", times)
    found = profile_network(network, Conditions(threads=1), cuts=16)
    assert asked.count(25) >= 1
    assert np.abs(found.errors).max() < 0.2
    assert found.dense_ms == pytest.approx(1.0)


def time_by_macs(network, monkeypatch):
    """Let cuts take as long as they have MACs; how many were timed at once, each time."""
    counts = []

    def times(self, cuts, repeats):
        counts.append(len(cuts))
        shares = [network.macs(cut) / network.macs() for cut in cuts]
        return [Timing((share,) * 3, (share,) * 3) for share in shares]

    monkeypatch.setattr(profiling.CutBench, "times", times)
    return counts


def test_a_damaged_file_is_measured_again(network, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = time_by_macs(network, monkeypatch)
    first = profile_network(network, Conditions(threads=1), cuts=4)
    count = len(calls)
    (kept,) = (tmp_path / "secateurs" / "latency").iterdir()
    kept.write_text("{")
    assert profile_network(network, Conditions(threads=1), cuts=4) == first
    assert len(calls) == 2 * count
    profile_network(network, Conditions(threads=1), cuts=4)
    assert len(calls) == 2 * count  # it was kept again


@pytest.fixture(scope="module")
def of_two_kinds():
    """Expanded, kept to itself, projected, twice: both kinds of group, wide enough for all."""

    def block(width):
        return (
            *(nn.Conv2d(width, 96, 1, bias=False), nn.ReLU()),
            *(nn.Conv2d(96, 96, 3, padding=1, groups=96, bias=False), nn.ReLU()),
            nn.Conv2d(96, 64, 1, bias=False),
        )

    return sec.trace(
        nn.Sequential(*block(8), *block(64), nn.Conv2d(64, 2, 1)), torch.zeros(1, 8, 6, 6)
    )


@pytest.mark.parametrize(
    ("slow_below", "expected"),
    [
        ({"depthwise": 16, "1x1": 4}, (16, {"1x1": 4})),
        ({"depthwise": 8, "1x1": 16}, (16, {"depthwise": 8})),
        ({"depthwise": 8, "1x1": 8}, (8, {})),
        ({"depthwise": 1, "1x1": 1}, (1, {})),
    ],
)
def test_each_kind_of_group_has_the_smallest_multiple_that_does_for_it(
    of_two_kinds, monkeypatch, tmp_path, slow_below, expected
):
    """Made-up times: MACs, and a tenth more for each kind whose widths are no multiple of its."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = of_two_kinds
    kinds = kinds_of(network)
    assert sorted(kinds.values()) == ["1x1", "1x1", "depthwise", "depthwise"]

    def times(self, cuts, repeats):
        found = []
        for cut in cuts:
            taken = network.macs(cut) / network.macs()
            for kind, multiple in slow_below.items():
                widths = [
                    len(group) - len(cut.channels[group.name].removed)
                    for group in network.groups
                    if kinds[group.name] == kind and group.name in cut.channels
                ]
                taken *= 1.1 if any(width % multiple for width in widths) else 1.0
            found.append(Timing((taken,) * 3, (taken,) * 3))
        return found

    monkeypatch.setattr(profiling.CutBench, "times", times)
    found = profile_network(network, Conditions(threads=1), cuts=4)
    assert (found.multiple, found.by_kind) == expected
    again = profile_network(network, Conditions(threads=1), cuts=4)
    assert again == found
    scores = {group.name: np.arange(len(group)) for group in network.groups}
    cut = sec.plan(network, scores, sec.Budget(macs=0.37), latency_model=found)
    for group in network.groups:
        width = len(group) - len(cut.channels[group.name].removed)
        assert width % found.multiple_for(kinds[group.name]) == 0


def test_what_is_slower_than_the_fastest_already_leaves_less_room_to_the_kinds():
    at_multiples = {1: (0.9, 0.5), 8: (0.52, 0.5), 16: (0.5, 0.5)}
    assert best_multiple(at_multiples) == 8
    assert cost_at(at_multiples, 8) == pytest.approx(1.04)
    assert cost_at({}, 1) == 1


def test_an_unwritable_cache_is_reported_before_timing(network, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/there")
    monkeypatch.setattr(profiling, "CutBench", None)
    with pytest.raises(sec.StudyError, match=r"/proc/there.*cannot be written"):
        profile_network(network, Conditions())


def test_measurements_of_another_machine_are_repeated(network, monkeypatch, tmp_path):
    """A cache that is copied to another machine, or shared by several: each has its own file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = time_by_macs(network, monkeypatch)
    here = profile_network(network, Conditions(threads=1))
    once = len(asked)
    assert profile_network(network, Conditions(threads=1)) == here
    assert len(asked) == once
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(profiling, "machine", lambda: {"processor": "another"})
        profile_network(network, Conditions(threads=1))
    assert len(asked) == 2 * once
    assert profile_network(network, Conditions(threads=1)) == here
    assert len(asked) == 2 * once
