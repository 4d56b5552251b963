"""Decisions of a race, by hand: predictions, uncertainty, and the next channel to remove."""

import itertools

import numpy as np
import pytest

from secateurs.calibration import racing as race_module
from secateurs.calibration.forecasts import LAST
from support.racing import Removing, alike, race


def test_the_first_are_some_of_each_group_from_low_to_high(monkeypatch):
    found = alike(range(42), first=3)
    # Sixteen of all, so eight of each; the first group has only three.
    assert found.first()[:3].tolist() == [0, 1, 2]
    assert found.first()[3:].tolist() == [3 + place for place in (2, 7, 12, 17, 21, 26, 31, 36)]
    monkeypatch.setattr(race_module, "FEWEST", 2)
    assert found.first()[3:].tolist() == [3 + place for place in (4, 14, 24, 34)]


def test_uncertainty_is_the_probability_beyond_the_boundary():
    # Forecasts 1, 2, 3, 5, each 0.5 off.
    found = alike([1] * 4, [0, 1, 2, 4])
    doubt = 0.5 * np.exp(-np.sqrt(2) * np.array([1.5, 0.5, 0.5, 2.5]) / 0.5)
    np.testing.assert_allclose(found.doubt(), doubt, rtol=1e-5)
    found.scope = "group"  # boundaries 1.5 and 4
    doubt = 0.5 * np.exp(-np.sqrt(2) * np.array([0.5, 0.5, 1, 1]) / 0.5)
    np.testing.assert_allclose(found.doubt(), doubt, rtol=1e-5)
    found.forecasts.done[1] = LAST
    found.forecasts.gained[1, 1] = 2.0
    assert found.doubt()[1] == 0


def test_those_in_most_doubt_for_least_work_are_removed_until_little_is_left():
    found = race(Removing(np.ones((6, 8)), cost_per_image={"a": 10.0}))
    found.forecasts.done[3] = LAST
    doubt = np.array([0.5, 0.4, 0.1, 0.0, 0.3, 0.2])
    # A tenth of the others' work each: 4, 5, 2, then the dear ones; 3 is known.
    assert found.most_doubtful(doubt, 1.0).tolist() == [4, 5]
    assert found.most_doubtful(doubt, 0.9).tolist() == [4, 5, 2]
    assert found.most_doubtful(doubt, 0.45).tolist() == [4, 5, 2, 0]
    assert found.most_doubtful(doubt, -1).tolist() == [4, 5, 2, 0, 1]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("in_steps", [True, False])
def test_a_race_asks_for_each_pair_once_and_adds_up_what_it_was_told(parts, in_steps):
    random = np.random.default_rng(1)
    gates = random.normal(size=(40, 24)) * random.permutation(np.linspace(0.5, 1, 40))[:, None]
    truth = -gates + gates**2 * random.exponential(2, gates.shape)
    removing = Removing(gates, truth, in_steps=in_steps)
    found = race(removing, parts=parts, first=10, confidence=0.995)
    ablation = found.run()
    seen = np.zeros(truth.shape, int)
    for part, columns, where in removing.asked:
        seen[np.ix_(columns, part)] += where
    assert seen.max() == 1
    groups = found.network.groups
    estimate, error, number = (
        np.concatenate([kept[group.name] for group in groups])
        for kept in (ablation.estimate, ablation.error, ablation.seen)
    )
    assert number.tolist() == seen.sum(1).tolist()
    assert set(number) <= ({0, 3, 9, 13, 24} if in_steps else {0, 24})
    firsts = removing.asked[: 2 * parts]  # both groups, part by part
    assert sum(where.sum() for _, _, where in firsts) == 16 * (13 if in_steps else 24)
    assert ablation.spent == seen.mean() < 1
    whole = number == 24
    assert whole.any()
    np.testing.assert_allclose(estimate[whole], truth[whole].mean(1), rtol=1e-6)
    assert (error[whole] == 0).all()
    assert (error[~whole] > 0).all()
    # Where some images were tried, the estimate is what they gave and a forecast of the others.
    middle, _ = found.forecasts.learn(0.9)
    forecast = -gates + middle[:, None] * gates**2 / 2
    np.testing.assert_allclose(
        estimate, np.where(seen == 1, truth, forecast).mean(1), rtol=1e-4, atol=1e-6
    )
    lowest = set(np.argsort(truth.mean(1))[:20])
    got = [10 * (group.name == "b") + c for group in groups for c in ablation.lowest[group.name]]
    assert len(lowest & set(got)) >= 18


def test_a_part_is_run_again_only_when_another_was_run_since():
    random = np.random.default_rng(1)
    gates = random.normal(size=(40, 24))
    one = Removing(gates, gates**2)
    race(one, first=10).run()
    assert len(one.runs) == 1
    assert len(one.asked) > 4
    two = Removing(gates, gates**2)
    racing = race(two, parts=2, first=10)
    rounds = []
    remove = racing.remove
    racing.remove = lambda *given: rounds.append(0) or remove(*given)
    racing.run()
    assert len(two.runs) == 2 + len(rounds)  # of two parts, one is there from the last round
    starts = [int(part[0]) for part in two.runs]
    assert all(start != following for start, following in itertools.pairwise(starts))
