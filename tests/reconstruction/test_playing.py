"""Trials on a pass of three numbered steps: each adds its number; a trial adds ten times that."""

import copy

import numpy as np
import pytest

from secateurs.reconstruction.playing import play_trials


class Pass:
    steps = (1, 2, 3)

    def __init__(self, start, taken):
        self.done, self.value, self.taken = 0, np.array(start, np.float64), taken

    def do(self, step):
        self.taken.append(step)
        self.value = self.value + step
        self.done += 1

    def forget(self, step):
        assert step == self.taken[-1]

    def branch(self):
        return copy.copy(self)


class Player:
    def __init__(self, first):
        self.first = first

    def play(self, rest):
        return [rest.value + 10 * sum(rest.steps[rest.done :])]


@pytest.fixture
def starts():
    return [[[0.0], [4.0]], [[8.0]]]


def test_a_trial_goes_on_from_where_it_begins_to_differ(starts):
    taken, ticks = [], []
    passes = (Pass(start, taken) for start in starts)
    players = [Player(2), Player(0), Player(-1)]
    found = play_trials(
        passes, lambda one: [one.value], players, "relative", lambda: ticks.append(1)
    )
    spread = np.square(np.array([0.0, 4.0, 8.0]) - 4).mean()
    # From step 3 on: off by 27. From the first on: by 54. Nowhere: not at all.
    assert [one.distance for one in found] == pytest.approx([27**2 / spread, 54**2 / spread, 0])
    assert [one.images for one in found] == [3, 3, 3]
    assert taken == [1, 2, 3, 1, 2] * 2  # one pass for the answers, one for where all trials begin
    assert len(ticks) == 4
