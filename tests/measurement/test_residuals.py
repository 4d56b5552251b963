"""Errors of the terms: the formulas of a Gaussian process, written out."""

import numpy as np
import pytest

from secateurs.measurement.residuals import NOISE, REACHES, SIZES, Residuals

SHARES = np.array([0.25, 0.75])


def of(macs, off, reach=0.4, size=0.1, noise=0.02):
    macs = np.array(macs, np.float64)
    off = np.array(off)
    return Residuals(macs, SHARES, off, np.full(len(off), noise), reach, size)


def test_one_cut_is_carried_over_by_how_like_it_another_is():
    known = of([[100, 1000]], [0.2])
    weight = 0.2 / (0.1**2 + 0.02**2)
    for macs in ([100, 1000], [50, 1000], [100, 800]):
        square = 0.25 * np.log(100 / macs[0]) ** 2 + 0.75 * np.log(1000 / macs[1]) ** 2
        likeness = 0.1**2 * np.exp(-square / (2 * 0.4**2))
        assert known.factor(np.array(macs, float)) == pytest.approx(np.exp(likeness * weight))
        left = 0.1**2 - likeness**2 / (0.1**2 + 0.02**2)
        assert known.doubt(np.array(macs, float)) == pytest.approx(np.sqrt(left + NOISE**2))


def test_far_from_all_that_was_timed_nothing_is_corrected_and_most_is_doubted():
    known = of([[100, 1000], [90, 900]], [0.2, 0.15])
    gone = np.array([0.0, 1.0])  # of a block that is not there any more
    assert known.factor(gone) == pytest.approx(1)
    assert known.doubt(gone) == pytest.approx(np.hypot(0.1, NOISE))


def test_several_candidates_are_corrected_at_once():
    known = of([[100, 1000], [90, 400]], [0.2, -0.1])
    many = np.array([[100.0, 1000], [80, 500], [10, 10]])
    assert known.factor(many) == pytest.approx([known.factor(one) for one in many])
    assert known.doubt(many) == pytest.approx([known.doubt(one) for one in many])


def test_a_network_of_other_layers_is_not_corrected():
    known = of([[100, 1000]], [0.2])
    assert known.factor(np.ones((3, 5))) == pytest.approx([1, 1, 1])
    assert known.doubt(np.ones((3, 5))) == pytest.approx([0.1] * 3)


def test_without_one_cut_the_others_are_as_they_were():
    known = of([[100, 1000], [90, 400], [50, 100]], [0.2, -0.1, 0.0])
    rest = of([[100, 1000], [50, 100]], [0.2, 0.0])
    here = np.array([90.0, 400])
    assert known.without(1).factor(here) == pytest.approx(rest.factor(here))


def test_length_scale_and_variance_are_those_that_predict_best():
    """Residuals that rise slowly are carried far; those that are noise are hardly believed."""
    lots = np.random.default_rng(0)
    macs = np.exp(lots.uniform(2, 6, size=(40, 2)))
    slow = 0.1 * np.log(macs[:, 1] / 50)
    noise = np.full(40, 0.01)
    smooth = Residuals.fit(macs, SHARES, slow, noise)
    assert smooth.reach == max(REACHES)
    mean_off = [
        abs(smooth.without(place).factor(macs[place]) / np.exp(slow[place]) - 1)
        for place in range(40)
    ]
    assert np.median(mean_off) < 0.02
    rough = Residuals.fit(macs, SHARES, 0.005 * lots.standard_normal(40), noise)
    assert rough.size == min(SIZES)
