"""The loss predicted by elimination equals that of least squares without the channel."""

import numpy as np

from secateurs.planning.structured_obs import (
    Reader,
    RemovalState,
    inverse_of,
    removal_order,
    removal_path,
)


def draw_reader(channels=6, each=2, outputs=3, rows=200):
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
    u, weights, entries = draw_reader()
    state = RemovalState.of(Reader(u.T @ u / len(u), weights, entries), 1e-12)
    expected = [rise_without(u, weights, entries[channel]) for channel in range(6)]
    np.testing.assert_allclose(state.costs(np.arange(6)), expected, rtol=1e-6)


def test_after_a_removal_the_costs_are_those_of_what_is_left():
    u, weights, entries = draw_reader()
    state = RemovalState.of(Reader(u.T @ u / len(u), weights, entries), 1e-12)
    base = 0.0
    for gone in ([4], [4, 1], [4, 1, 0], [4, 1, 0, 5]):  # the last two past half: it shrinks
        base = rise_without(u, weights, entries[gone].ravel())
        state.remove_(np.array(gone[-1:]))
        left = np.setdiff1d(np.arange(6), gone)
        expected = [rise_without(u, weights, entries[[*gone, one]].ravel()) for one in left]
        np.testing.assert_allclose(base + state.costs(left), expected, rtol=1e-6)


def test_the_first_to_go_is_the_cheapest_and_each_comes_once():
    u, weights, entries = draw_reader()
    order = removal_order([Reader(u.T @ u / len(u), weights, entries)], 6, ridge=1e-12)
    cheapest = np.argmin([rise_without(u, weights, entries[channel]) for channel in range(6)])
    assert order[0] == cheapest
    assert sorted(order.tolist()) == list(range(6))


def test_several_readers_are_summed():
    u, weights, entries = draw_reader()
    quiet = np.zeros_like(weights)
    quiet[entries[0]] = 100.0  # the second reader lives by channel 0 alone
    covariance = u.T @ u / len(u)
    alone = removal_order([Reader(covariance, weights, entries)], 6)
    both = removal_order(
        [Reader(covariance, weights, entries), Reader(np.eye(12), quiet, entries)], 6
    )
    assert both[-1] == 0
    assert alone[-1] != 0 or not np.array_equal(alone, both)


def test_a_long_kernel_is_ordered_frequency_by_frequency_as_by_all_its_inputs():
    from secateurs.planning.structured_obs import SpectralReader

    # Signals that go round: then the spectra hold all that the products of inputs do.
    rng = np.random.default_rng(0)
    channels, length, outputs = 5, 8, 3
    signals = rng.normal(size=(400, channels, length)) * np.array([3, 1, 2, 0.3, 1.5])[:, None]
    signals[:, 4] += 0.8 * np.roll(signals[:, 0], 1, axis=1)
    signals -= signals.mean(axis=(0, 2), keepdims=True)
    kernels = rng.normal(size=(outputs, channels, length))
    at = (np.arange(length)[:, None] + np.arange(length)) % length
    patches = signals[:, :, at].transpose(0, 2, 1, 3).reshape(400 * length, -1)
    found = np.fft.fft(signals).transpose(2, 0, 1)
    spectra = found.conj().transpose(0, 2, 1) @ found / (400 * length**2)
    weights = np.fft.fft(kernels).conj().transpose(2, 1, 0)
    spectral = SpectralReader(spectra, weights, np.arange(channels))
    whole = Reader(
        patches.T @ patches / len(patches),
        kernels.reshape(outputs, -1).T,
        np.arange(channels * length).reshape(channels, length),
    )
    by_all, by_frequency = _costs(whole), _costs(spectral)
    np.testing.assert_allclose(by_frequency, by_all, rtol=1e-8)
    assert removal_order([spectral], channels).tolist() == removal_order([whole], channels).tolist()


def _costs(reader):
    """What the first channel to go would cost, without a ridge."""
    from secateurs.planning import structured_obs as module

    if isinstance(reader, Reader):
        state = module.RemovalState.of(reader, 0.0)
    else:
        state = module.SpectralRemovalState.of(reader, 0.0)
    first = state.costs(np.arange(5))
    state.remove_(np.array([1]))
    return np.concatenate([first, state.costs(np.array([0, 2, 3, 4]))])


def test_errors_along_the_path_are_those_of_least_squares_beside_other_groups():
    """A reader of a concatenation: two of its six channels are another group's, and stay."""
    u, weights, entries = draw_reader()
    covariance, fitted = u.T @ u / len(u), entries[[0, 2, 3, 5]]
    inverse = inverse_of(covariance, 1e-12)
    order, errors = removal_path([Reader(covariance, weights, fitted, inverse)], 4)
    assert sorted(order) == [0, 1, 2, 3]
    assert errors[4] == 0
    for width in range(4):
        gone = fitted[order[: 4 - width]].ravel()
        np.testing.assert_allclose(errors[width], rise_without(u, weights, gone), rtol=1e-5)
    assert removal_order([Reader(covariance, weights, fitted)], 4, 1e-12).tolist() == order.tolist()
