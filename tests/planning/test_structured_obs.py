"""What elimination foresees is what least squares without the channel have."""

import numpy as np

from secateurs.planning.structured_obs import Reader, _State, removal_order


def drawn(channels=6, each=2, outputs=3, rows=200):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((rows, channels * each)) @ rng.standard_normal((channels * each,) * 2)
    entries = np.arange(channels * each).reshape(channels, each)
    return u - u.mean(0), rng.standard_normal((channels * each, outputs)), entries


def rise_without(u, weights, gone):
    """By least squares: the mean squared error once the rest makes up for what is gone."""
    kept = np.setdiff1d(np.arange(u.shape[1]), gone)
    y = u @ weights
    return np.square(y - u[:, kept] @ np.linalg.lstsq(u[:, kept], y, rcond=None)[0]).sum() / len(u)


def test_the_cost_of_a_channel_is_the_least_squares_error_without_it():
    u, weights, entries = drawn()
    state = _State.of(Reader(u.T @ u / len(u), weights, entries), 1e-12)
    expected = [rise_without(u, weights, entries[channel]) for channel in range(6)]
    np.testing.assert_allclose(state.costs(np.arange(6)), expected, rtol=1e-6)


def test_after_a_removal_the_costs_are_those_of_what_is_left():
    u, weights, entries = drawn()
    state = _State.of(Reader(u.T @ u / len(u), weights, entries), 1e-12)
    base = 0.0
    for gone in ([4], [4, 1], [4, 1, 0], [4, 1, 0, 5]):  # the last two past half: it shrinks
        base = rise_without(u, weights, entries[gone].ravel())
        state.remove_(np.array(gone[-1:]))
        left = np.setdiff1d(np.arange(6), gone)
        expected = [rise_without(u, weights, entries[[*gone, one]].ravel()) for one in left]
        np.testing.assert_allclose(base + state.costs(left), expected, rtol=1e-6)


def test_the_first_to_go_is_the_cheapest_and_each_comes_once():
    u, weights, entries = drawn()
    order = removal_order([Reader(u.T @ u / len(u), weights, entries)], 6, ridge=1e-12)
    cheapest = np.argmin([rise_without(u, weights, entries[channel]) for channel in range(6)])
    assert order[0] == cheapest
    assert sorted(order.tolist()) == list(range(6))


def test_several_readers_are_summed():
    u, weights, entries = drawn()
    quiet = np.zeros_like(weights)
    quiet[entries[0]] = 100.0  # the second reader lives by channel 0 alone
    covariance = u.T @ u / len(u)
    alone = removal_order([Reader(covariance, weights, entries)], 6)
    both = removal_order(
        [Reader(covariance, weights, entries), Reader(np.eye(12), quiet, entries)], 6
    )
    assert both[-1] == 0
    assert alone[-1] != 0 or not np.array_equal(alone, both)
