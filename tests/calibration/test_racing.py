"""How a race decides, by hand: what it forecasts, how much it doubts, whom it removes next."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm, t

from secateurs.calibration import racing as race_module
from secateurs.calibration.forecasts import LAST, SAMPLED, curvature
from secateurs.calibration.racing import Race


class Group:
    def __init__(self, name, channels):
        self.name, self.channels = name, np.array(channels)

    def __len__(self):
        return len(self.channels)


class Removing:
    """Knows what removing every channel does to every image, and writes down what is asked."""

    def __init__(self, gates, truth=None, losses=None, cost_per_image=None, in_steps=True):
        self.gates = np.asarray(gates, np.float64)
        self.truth = np.zeros_like(self.gates) if truth is None else np.asarray(truth)
        self.all_losses = losses
        self.prices = cost_per_image or {}
        self.in_steps = in_steps
        self.asked = []
        self.runs = []

    def dense(self, part):
        self.runs.append(part)
        losses = np.zeros(len(part)) if self.all_losses is None else self.all_losses[part]
        classes = 0 if self.all_losses is None else 2
        labels = np.zeros(len(part), np.int64)
        return SimpleNamespace(
            part=part, losses=losses, labels=labels, right=np.ones(len(part)), classes=classes
        )

    def slopes(self, dense):
        nobody = np.full((len(dense.part), 1), 99.0)
        return np.hstack([nobody, self.gates.T[dense.part]])

    def ablate(self, dense, group, channels, where):
        own = group.channels[channels] - 1
        self.asked.append((dense.part, own, where))
        loss = np.where(where, self.truth[own][:, dense.part], np.nan)  # the rest means nothing
        return SimpleNamespace(loss=loss, right=np.zeros(where.shape))

    def supports_subsets(self, group):
        return self.in_steps

    def cost_per_image(self, group):
        return self.prices.get(group.name, 1.0)


def race(removing, *, share=0.5, scope="network", confidence=0.95, parts=1, first=2):
    """Two groups: the first two channels, and the others. Atom 0 is nobody's."""
    channels, images = removing.gates.shape
    groups = [Group("a", range(1, first + 1)), Group("b", range(first + 1, channels + 1))]
    network = SimpleNamespace(groups=[group for group in groups if len(group)])
    rows = np.array_split(np.arange(images), parts)
    return Race(network, removing, rows, share, scope, confidence)


def alike(bends, slopes=None, **options):
    """A race in which every image forecasts the same: these slopes and bends."""
    found = race(Removing(np.sqrt(2 * np.array(bends, float))[:, None] * np.ones(8)), **options)
    left = np.array([1, 7 / 8, 5 / 8, 3 / 8, 0])
    np.testing.assert_allclose(found.forecasts.bend, np.outer(bends, left), rtol=1e-6)
    found.forecasts.slope[:] = np.outer(np.zeros(len(bends)) if slopes is None else slopes, left)
    return found


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


def learned(found, step, share=0.9):
    return found.forecasts.learn_after(step, share, *found.forecasts.surprises())


def test_it_learns_how_far_forecasts_are_off_of_each_group_and_of_all():
    found = alike([1] * 12)  # a bend of 1: the truths are the ratios
    found.forecasts.done[:11] = LAST
    found.forecasts.gained[:11, 1] = np.arange(11)
    middle, off = learned(found, 0)
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
    middle, _ = learned(found, 2)
    assert middle == pytest.approx([3.2])
    values, deviations = found.forecasts.values()
    assert values == pytest.approx([19, 16, 13, 0.75 + 2])
    assert deviations[3] > 0


def test_errors_that_agree_by_chance_are_not_believed():
    found = alike([1] * 20, first=0)
    found.forecasts.done[:] = LAST
    found.forecasts.gained[:, 1] = 10.0  # all forecasts are off by the same
    middle, off = learned(found, 0)
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


def test_the_first_are_some_of_each_group_from_low_to_high(monkeypatch):
    found = alike(range(42), first=3)
    # Sixteen of all, so eight of each; the first group has only three.
    assert found.first()[:3].tolist() == [0, 1, 2]
    assert found.first()[3:].tolist() == [3 + place for place in (2, 7, 12, 17, 21, 26, 31, 36)]
    monkeypatch.setattr(race_module, "FEWEST", 2)
    assert found.first()[3:].tolist() == [3 + place for place in (4, 14, 24, 34)]


def test_doubt_is_the_chance_to_lie_beyond_the_boundary():
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
    for part, own, where in removing.asked:
        seen[np.ix_(own, part)] += where
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
