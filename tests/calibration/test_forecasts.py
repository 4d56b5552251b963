"""Predictions for channels, and what is learned from those that were removed."""

import numpy as np
import pytest
from scipy.stats import norm, t

from secateurs.calibration.forecasts import LAST, SAMPLED, curvature
from support.racing import Removing, alike, learn, race


def test_a_forecast_is_the_loss_to_second_order():
    """Without the channel: -t + t^2 / 2, means over images."""
    gates = [[1, 3, -2, 0], [2, 2, 2, 2]]
    found = race(Removing(gates))
    assert found.forecasts.slope[:, 0].tolist() == [-0.5, -2]
    assert found.forecasts.bend[:, 0].tolist() == [14 / 8, 16 / 8]
    values, deviations = found.forecasts.values()
    assert values.tolist() == [-0.5 + 1.75, 0]
    assert deviations == pytest.approx([1.75 / 2, 1])


def test_a_cross_entropy_bends_by_its_slope_squared_and_its_odds():
    margins = np.linspace(-3, 6, 19)
    step = 1e-4
    loss = np.logaddexp(0, -margins)
    up, down = np.logaddexp(0, -margins - step), np.logaddexp(0, -margins + step)
    slopes, bends = (up - down) / (2 * step), (up - 2 * loss + down) / step**2
    np.testing.assert_allclose(curvature(loss) * slopes**2, bends, rtol=1e-4)
    assert np.isfinite(curvature(np.array([0.0, 1e3, -1.0]))).all()
    losses = np.log([2, 4, 2, 4])  # odds of 1 and of 1/3
    found = race(Removing([[1, 3, -2, 0]] * 2, losses=losses))
    assert found.forecasts.bend[0, 0] == pytest.approx((1 + 9 / 3 + 4) / 8)


def test_steps_take_the_images_of_the_steepest_slopes_first_and_a_sample_of_the_others():
    random = np.random.default_rng(0)
    gates = random.normal(size=(3, 16))
    found = race(Removing(gates))
    for channel in range(3):
        order = np.argsort(-np.abs(gates[channel]))
        steps = found.forecasts.step_of[channel][order]
        assert steps.tolist() == [1] * 2 + [2] * 4 + [4, 3, 4, 4, 4, 3, 4, 4, 4, 3]
        for step in range(LAST + 1):
            left = gates[channel][order[steps > step]]
            assert found.forecasts.slope[channel, step] == pytest.approx(-left.sum() / 16, abs=1e-6)
            assert found.forecasts.bend[channel, step] == pytest.approx(
                (left**2).sum() / 32, abs=1e-6
            )


def test_it_learns_how_far_forecasts_are_off_of_each_group_and_of_all():
    found = alike([1] * 12)  # a bend of 1: the truths are the ratios
    found.forecasts.done[:11] = LAST
    found.forecasts.gained[:11, 1] = np.arange(11)
    middle, off = learn(found, 0)
    # All: a median of 5, nine tenths within 5. The first two, of a group of their own, are 0 and
    # 1: two parts their median of 0.5, three that of all. The others' are 2 to 10: three to one.
    assert middle.tolist() == pytest.approx([3.2, 5.75])
    few, more = (t.ppf(0.95, number - 1) / norm.ppf(0.95) for number in (5, 12))
    assert off.tolist() == pytest.approx([few * (0.4 * 3.1 + 0.6 * 5), more * (0.75 * 3.85 + 1.25)])
    values, deviations = found.forecasts.values()
    assert values.tolist() == pytest.approx([*range(11), 5.75])
    assert deviations[:11].tolist() == [0] * 11
    assert deviations[11] == pytest.approx(off[1] / 1.6448536)


def test_what_is_left_after_a_step_is_forecast_from_what_was_left_of_others():
    found = alike([1] * 4, first=0)
    found.forecasts.done[:] = [LAST, LAST, LAST, 2]
    found.forecasts.gained[:] = [
        [0, 9, 9, 0.5, 0.5],
        [0, 7, 7, 1, 1],
        [0, 5, 5, 1, 2],
        [0, 0.5, 0.25, 0, 0],
    ]
    # After two steps five of eight images are left: a bend of 5/8, and ratios of 1.6, 3.2, 4.8.
    middle, _ = learn(found, 2)
    assert middle == pytest.approx([3.2])
    values, deviations = found.forecasts.values()
    assert values == pytest.approx([19, 16, 13, 0.75 + 2])
    assert deviations[3] > 0


def test_errors_that_agree_by_coincidence_are_not_trusted():
    found = alike([1] * 20, first=0)
    found.forecasts.done[:] = LAST
    found.forecasts.gained[:, 1] = 10.0  # all forecasts are off by the same
    middle, off = learn(found, 0)
    assert middle == pytest.approx([10])
    assert off == pytest.approx([0.3])


def test_a_sample_stands_for_what_it_is_one_of():
    found = alike([1] * 3, [2] * 3, first=0)
    found.forecasts.done[:] = [SAMPLED, SAMPLED, 0]
    # Slopes foretell 2/8 of each image. The sample is two images of eight, and three are left.
    found.forecasts.gained[:2, 1:4] = [[0.25, 0.5, 0.5 + 0.25], [0.25 + 0.125, 0.5, 0.5 + 0.5]]
    taught, surprises = found.forecasts.surprises()
    assert taught.tolist() == [0, 1]
    expected = [[0.625, 0.625, 0.625, 0.375, 0], [1.375, 1.25, 1.25, 0.75, 0]]
    np.testing.assert_allclose(surprises, expected, atol=1e-6)
    values, _ = found.forecasts.values()
    assert values[2] == pytest.approx(2 + 1)  # the median of 0.625 and 1.375
    assert values[0] == pytest.approx(0.25 + 0.5 + 0.75 + 0.75 + 1.5 * 3 / 8)
    found.forecasts.done[0] = LAST  # now the sample is not asked any more
    found.forecasts.gained[0, 4] = 1.0
    _, surprises = found.forecasts.surprises()
    np.testing.assert_allclose(surprises[0], [0.5, 0.5, 0.5, 0.25, 0], atol=1e-6)
