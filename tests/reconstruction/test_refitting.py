import numpy as np
import pytest

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.least_squares import Moments, refit
from secateurs.reconstruction import refitting, wide
from secateurs.reconstruction.refitting import (
    Following,
    Gathered,
    images_that_fit,
    is_wide,
    refit_gathered,
)
from secateurs.reconstruction.running_sums import RunningSums
from support.peers import run_with_peers

RANDOM = np.random.default_rng(0)
W = RANDOM.normal(size=(5, 3))


def gather(parts=((False, 40), (True, 20)), joined=False):
    found = Gathered(RunningSums(), RunningSums())
    for held, count in parts:
        u = RANDOM.normal(size=(count, 5)).astype(np.float32)
        y = (u @ W + 1 + 0.1 * RANDOM.normal(size=(count, 3))).astype(np.float32)
        (found.held if held else found.fit).add(u[None], y[None])
        found.rows.append((held, [u, y, *([y + 1] if joined else [])]))
    return found


def test_by_sums_it_is_least_squares_on_them():
    found = gather()
    result = refit_gathered(found, np.zeros((1, 5, 3)), importance=None, has_intercept=True)
    parts = [Moments.of(*(one[None] for one in found.together(held)[:2])) for held in (False, True)]
    expected = refit(*parts, np.zeros((1, 5, 3)), importance=None, has_intercept=True)
    np.testing.assert_allclose(result.weights, expected.weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.weights[0], W, atol=0.1)
    assert result.after < 0.1 * result.before


def test_a_relu_behind_is_looked_at_where_the_rows_are_there():
    found = gather(joined=True)
    options = {"importance": None, "has_intercept": True}
    plain = refit_gathered(found, np.zeros((1, 5, 3)), **options)
    following = Following(np.array(1.0, np.float32), np.array(0.5, np.float32))
    relaxed = refit_gathered(found, np.zeros((1, 5, 3)), following=following, **options)
    assert not np.allclose(relaxed.weights, plain.weights, atol=1e-6)
    rows = following.rectify(found)
    assert (rows.u.shape, rows.y.shape, rows.shift.shape) == ((60, 5), (60, 3), (60, 3))
    np.testing.assert_allclose(rows.shift, found.together()[2] + 0.5)


def test_rows_are_taken_together_by_side():
    found = gather(((False, 4), (True, 2), (False, 3)))
    assert [len(found.together(held)[0]) for held in (None, False, True)] == [9, 7, 2]


def test_too_little_or_nothing_finite_gives_none():
    empty = Gathered(RunningSums(), RunningSums())
    options = {"importance": None, "has_intercept": True}
    assert refit_gathered(empty, np.zeros((1, 5, 3)), **options) is None
    broken = gather()
    broken.fit.add(np.full((1, 1, 5), np.nan, np.float32), np.zeros((1, 1, 3), np.float32))
    with np.errstate(all="ignore"):
        try:
            assert refit_gathered(broken, np.zeros((1, 5, 3)), **options) is None
        except ValueError as error:  # SciPy looks first
            assert "infs or NaNs" in str(error)  # noqa: PT017


def test_wide_ones_go_by_rows():
    assert is_wide(1, wide.MOST_INPUTS + 1)
    assert not is_wide(1, wide.MOST_INPUTS)
    assert not is_wide(2, wide.MOST_INPUTS + 1)


def test_as_many_images_as_memory_is_meant_to_hold(monkeypatch):
    fit, held = (CalibrationBatch(np.zeros((n, 2)), None) for n in (30, 10))
    assert images_that_fit(fit, held, 1) == (fit, held)
    monkeypatch.setattr(refitting, "MOST_BYTES", 2000)
    with pytest.warns(
        UserWarning, match="activations of 40 images need 0.0 GB.*; only 20 images are used"
    ):
        less = images_that_fit(fit, held, 100)
    assert list(map(len, less)) == [15, 5]


def test_a_process_without_rows_adds_nothing():
    """Of texts, for example, all of whose places are padding."""
    random = np.random.default_rng(0)
    u, y = (random.normal(size=(1, 9, n)).astype(np.float32) for n in (3, 2))

    def work(peers):
        gathered = Gathered(RunningSums(), RunningSums())
        if peers.rank == 1:
            gathered.fit.add(u, y)
            gathered.rows.append((True, [u[0], y[0]]))
        return gathered.total_over(peers)

    main, other = run_with_peers(2, work)
    np.testing.assert_array_equal(main.together(held=True)[0], u[0])
    assert not other.rows
    for found in (main, other):
        assert (found.fit.rows, found.held.rows) == (9, 0)
        np.testing.assert_allclose(found.fit.moments().uy, Moments.of(u, y).uy, rtol=1e-4)
