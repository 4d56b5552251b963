"""How a race decides, by hand: what it forecasts, how much it doubts, whom it removes next."""

from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.criteria.race import FEWEST, Race


class Group:
    def __init__(self, name, channels):
        self.name, self.channels = name, np.array(channels)

    def __len__(self):
        return len(self.channels)


def race(signed, squares, *, images=4, share=0.5, scope="network", price=None):
    """Two groups: the first two channels, and the others. Atom 0 is nobody's."""
    groups = [Group("a", [1, 2]), Group("b", range(3, len(signed) + 1))]
    gates = SimpleNamespace(
        signed=np.array([99.0, *signed]), squares=np.array([99.0, *squares]), images=images
    )
    removals = SimpleNamespace(price=lambda group: (price or {}).get(group.name, 1.0))
    network = SimpleNamespace(groups=groups)
    return Race(network, removals, [], gates, share, scope, confidence=0.95)


def test_a_forecast_is_the_loss_to_second_order():
    """Without the channel: -t + t^2 / 2, means over images."""
    found = race([4, -8, 0, 2], [16, 32, 8, 8])
    assert found.slope.tolist() == [-1, 2, 0, -0.5]
    assert found.bend.tolist() == [2, 4, 1, 1]
    values, deviations = found._values()
    assert values.tolist() == [1, 6, 1, 0.5]
    assert deviations.tolist() == [1, 2, 0.5, 0.5]


def test_it_learns_how_far_forecasts_are_off_of_each_group_and_of_all():
    found = race([0] * 12, [8] * 12)  # no slope, a bend of 1: the truths are the ratios
    found.known[:11] = True
    found.truth[:11] = np.arange(11)
    middle, off = found._learned(0.9)
    # All: a median of 5, nine tenths within 5. The first two, of a group of their own, are 0 and
    # 1: two parts their median of 0.5, three that of all. The others' are 2 to 10: three to one.
    assert middle.tolist() == pytest.approx([3.2] * 2 + [5.75] * 10)
    assert off[0] == pytest.approx(0.4 * 3.1 + 0.6 * 5)
    assert off[2] == pytest.approx(0.75 * 3.85 + 0.25 * 5)
    values, deviations = found._values()
    assert values.tolist() == [*range(11), 5.75]
    assert deviations[:11].tolist() == [0] * 11
    assert deviations[11] == pytest.approx(off[2] / 1.6448536)


def test_the_first_are_some_of_each_group_from_low_to_high_and_those_in_doubt():
    found = race([0] * 42, [8 * n for n in range(42)])
    a, b = found._of_each()[:2], found._of_each()[2:]
    assert a.tolist() == [0, 1]
    assert b.tolist() == [2 + place for place in (4, 12, 20, 28, 36)]
    first = found._most_doubtful(np.linspace(0, 1, 42), 0, first=True).tolist()
    assert first[:7] == [*a, *b]
    assert set(range(42 - FEWEST, 42)) <= set(first)
    assert len(first) == len(set(first))


def test_doubt_is_the_chance_to_lie_beyond_the_boundary():
    found = race([0, -4, -8, -16], [8] * 4)  # forecasts 1, 2, 3, 5, each 0.5 off
    doubt = 0.5 * np.exp(-np.sqrt(2) * np.array([1.5, 0.5, 0.5, 2.5]) / 0.5)
    np.testing.assert_allclose(found._doubt(), doubt)
    found.known[1] = True
    found.truth[1] = 2.0
    assert found._doubt()[1] == 0
    apart = race([0, -4, -8, -16], [8] * 4, scope="group")  # boundaries 1.5 and 4
    doubt = 0.5 * np.exp(-np.sqrt(2) * np.array([0.5, 0.5, 1, 1]) / 0.5)
    np.testing.assert_allclose(apart._doubt(), doubt)


def test_those_in_most_doubt_for_least_work_are_removed_until_little_is_left():
    found = race([0] * 6, [8] * 6, price={"a": 10.0})
    found.known[3] = True
    doubt = np.array([0.5, 0.4, 0.1, 0.0, 0.3, 0.2])
    # A tenth of the others' work each: 4, 5, 2, then the dear ones; 3 is known.
    assert found._most_doubtful(doubt, 1.0, first=False).tolist() == [4, 5]
    assert found._most_doubtful(doubt, 0.9, first=False).tolist() == [4, 5, 2]
    assert found._most_doubtful(doubt, 0.45, first=False).tolist() == [4, 5, 2, 0]
    assert found._most_doubtful(doubt, -1, first=False).tolist() == [4, 5, 2, 0, 1]
