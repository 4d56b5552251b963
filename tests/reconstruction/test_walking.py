"""The lockstep walk on chains of matrices, in NumPy only."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.reconstruction.refitting import Following, Gathered
from secateurs.reconstruction.running_sums import RunningSums
from secateurs.reconstruction.walking import LockstepWalk, Pair
from support.peers import run_with_peers


@dataclass(eq=False)
class Chain:
    """Values of some images on their way; step n multiplies by the n-th matrix."""

    matrices: list
    values: list
    log: list = field(default_factory=list)

    @property
    def steps(self):
        return range(len(self.matrices))

    def do(self, step):
        self.log.append(step)
        self.values.append(self.values[step] @ self.matrices[step])

    def forget(self, step):
        self.values[step] = self.values[step][:0] if step else self.values[step]

    def measure_memory(self):
        return sum(value.nbytes for value in self.values)


class Walk(LockstepWalk):
    """Channels 2 and 3 between the first two matrices have gone."""

    def __init__(self, dense, small, x, sites):
        halves = ((x[:40], False), (x[40:], True))
        self.pairs = [
            Pair(Chain(dense, [part]), Chain(small, [part]), held, 0) for part, held in halves
        ]
        self.layers = []
        self.small = small
        self.sites = {number: self.site(number) for number in sites}

    def site(self, number):
        matrix = self.small[number]

        def write_(weights, intercept):
            matrix[:] = weights[0]

        return SimpleNamespace(
            number=number,
            map=SimpleNamespace(groups=1, inputs=len(matrix)),
            importance=None,
            has_intercept=False,
            write_=write_,
        )

    def reads_other_values(self, site, pair):
        ours, theirs = (piece.values[site.number] for piece in (pair.small, pair.dense))
        kept = theirs[:, : ours.shape[1]]
        return ours.shape != theirs.shape or not np.array_equal(ours, kept)

    def is_off_at_the_sum(self, site, pair):
        return False

    def relaxes(self, site):
        return False

    def gather(self, site, *, sums, keeps):
        assert (sums, keeps) == (True, False)
        found = Gathered(RunningSums(), RunningSums())
        for pair in self.pairs:
            u, y = pair.small.values[site.number], pair.dense.values[site.number + 1]
            (found.held if pair.held else found.fit).add(
                u[None].astype(np.float32), y[None].astype(np.float32)
            )
        return found

    def matrix_of(self, site):
        return self.small[site.number][None].copy()

    def name_of(self, site):
        return f"matrix {site.number}"

    def following(self, site):
        return Following(np.ones(()), np.zeros(()))


@pytest.fixture
def networks():
    random = np.random.default_rng(0)
    first, last = random.normal(size=(3, 4)), random.normal(size=(4, 2))
    # Of four channels made of three inputs, three can stand in for the fourth exactly.
    small = [first[:, :3].copy(), last[:3].copy()]
    return [first, last], small, random.normal(size=(60, 3))


def test_each_layer_compensates_for_the_errors_before_it(networks):
    dense, small, x = networks
    before = np.square(x @ small[0] @ small[1] - x @ dense[0] @ dense[1]).sum()
    walk = Walk(dense, small, x, [1])
    found = walk.walk()
    after = np.square(x @ small[0] @ small[1] - x @ dense[0] @ dense[1]).sum()
    assert after < 1e-4 * before
    (layer,) = found.layers
    assert (layer.weight, layer.inputs) == ("matrix 1", 3)
    assert layer.after < layer.before
    exact = np.linalg.lstsq(x @ small[0], x @ dense[0] @ dense[1], rcond=None)[0]
    np.testing.assert_allclose(small[1], exact, rtol=2e-2, atol=1e-2)


def test_layers_that_read_unchanged_values_are_left_alone(networks):
    dense, small, x = networks
    walk = Walk(dense, small, x, [0])
    before = small[0].copy()
    assert walk.walk().layers == ()
    np.testing.assert_array_equal(small[0], before)


def test_unknown_or_inconsistent_layers_are_left_alone(networks):
    dense, small, x = networks
    unknown = Walk(dense, small, x, [1])
    unknown.reads_other_values = lambda site, pair: None
    untrue = Walk(dense, small, x, [1])
    untrue.does_what_it_says = lambda site: False
    absent = Walk(dense, small, x, [1])
    absent.is_left = lambda number: False
    for walk in (unknown, untrue, absent):
        assert walk.walk().layers == ()
        for pair in walk.pairs:
            assert pair.dense.log == pair.small.log == [0, 1]  # each step once, all the same


def test_an_error_at_the_following_sum_triggers_a_refit(networks):
    dense, small, x = networks
    walk = Walk(dense, small, x, [1])
    walk.reads_other_values = lambda site, pair: False
    walk.is_off_at_the_sum = lambda site, pair: pair.held  # in any of the pieces
    assert [layer.weight for layer in walk.walk().layers] == ["matrix 1"]


def test_the_peak_memory_of_the_walk_is_reported(networks):
    dense, small, x = networks
    walk = Walk(dense, small, x, [1])
    walk.reads_other_values = lambda site, pair: None
    found = walk.walk()
    images = len(x) * 8
    # After the last step: the input, what step 0 gave (4 and 3 channels), and the result.
    assert found.peak_bytes == images * (3 + 4 + 2 + 3 + 3 + 2)


def test_the_walk_ends_at_the_last_layer_that_can_be_refitted(networks):
    dense, small, x = networks
    walk = Walk([*dense, np.eye(2)], [*small, np.eye(2)], x, [1])
    walk.walk()
    assert all(pair.dense.log == pair.small.log == [0, 1] for pair in walk.pairs)


def test_a_layer_that_is_changed_for_one_process_is_refitted_by_all(networks):
    """A first matrix of half the size changes nothing for images of zeros."""
    dense, _, x = networks
    images = [x, 0 * x]
    wide = [[0.5 * dense[0], dense[1].copy()] for _ in images]

    def work(peers):
        walk = Walk(dense, wide[peers.rank], images[peers.rank], [1])
        walk.peers = peers
        return walk.walk()

    for found, (first, last) in zip(run_with_peers(2, work), wide, strict=True):
        assert [layer.weight for layer in found.layers] == ["matrix 1"]
        np.testing.assert_allclose(x @ first @ last, x @ dense[0] @ dense[1], atol=1e-2)
    np.testing.assert_array_equal(wide[0][1], wide[1][1])
