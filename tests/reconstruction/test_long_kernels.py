"""Fits of convolutions with long kernels, against explicit windows and NumPy's least squares."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from secateurs.reconstruction import long_kernels
from secateurs.reconstruction.long_kernels import (
    ConjugateGradients,
    KernelGeometry,
    LongKernel,
    SignalRows,
    SignalSpectra,
    by_channel,
    by_tap,
    refit_long,
)

LINE = KernelGeometry((16,), (2,), ((7, 8),), (1,))
PLANE = KernelGeometry((5, 4), (1, 2), ((2, 1), (0, 3)), (2, 1))
CASES = pytest.mark.parametrize(
    ("geometry", "sizes"), [(LINE, (20,)), (PLANE, (9, 8))], ids=["line", "plane"]
)


def draw_normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def patches(x, geometry):
    """(images, places, channels * taps), window by window."""
    x = np.pad(x, [(0, 0), (0, 0), *geometry.padding])
    reach = [d * (k - 1) + 1 for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    axes = tuple(range(2, x.ndim))
    windows = sliding_window_view(x, reach, axis=axes)
    steps = (slice(None, None, s) for s in geometry.stride)
    taps = (slice(None, None, d) for d in geometry.dilation)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    rank = len(reach)
    moved = np.moveaxis(windows, 1, 1 + rank)
    places = int(np.prod(moved.shape[1 : 1 + rank]))
    return moved.reshape(len(x), places, -1)


def gather_sums(x, weights, geometry):
    """(images, outputs, places)."""
    return (patches(x, geometry) @ weights).transpose(0, 2, 1)


@CASES
def test_the_product_equals_that_of_explicit_windows(geometry, sizes):
    x, weights = draw_normal(3, 2, *sizes), draw_normal(2 * geometry.taps, 4, seed=1)
    found = SignalSpectra(x, geometry).contract(by_tap(weights, 2))
    right = gather_sums(x, weights, geometry)
    np.testing.assert_allclose(found.reshape(right.shape), right, rtol=1e-4, atol=1e-4)


@CASES
def test_the_transpose_equals_that_of_explicit_windows(geometry, sizes):
    x = draw_normal(3, 2, *sizes)
    signals = SignalSpectra(x, geometry)
    y = draw_normal(*signals.contract(draw_normal(2 * geometry.taps, 4)).shape, seed=2)
    found = by_channel(signals.transpose(y), 2)
    right = np.einsum("npi,nop->io", patches(x, geometry), y.reshape(3, 4, -1))
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("has_intercept", [True, False])
def test_it_converges_to_the_least_squares_solution(has_intercept):
    x = draw_normal(60, 2, 20) + 1
    signals = SignalSpectra(x, LINE)
    y = draw_normal(60, 3, 10, seed=3) + 5
    fit = ConjugateGradients(signals, y, np.zeros((32, 3)), has_intercept=has_intercept)
    for _ in range(60):
        fit.step()
    rows = patches(x, LINE).reshape(-1, 32).astype(np.float64)
    if has_intercept:
        rows = np.hstack([rows, np.ones((len(rows), 1))])
    wanted = y.transpose(0, 2, 1).reshape(-1, 3)
    right = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(by_channel(fit.weights, 2), right[:32], atol=2e-3)
    np.testing.assert_allclose(fit.intercept, right[32] if has_intercept else 0, atol=1e-2)


def test_with_fewer_images_than_channels_steps_are_plain(monkeypatch):
    monkeypatch.setattr(SignalSpectra, "preconditioner", None)  # a call would fail
    signals = SignalSpectra(draw_normal(2, 3, 20), LINE)
    y = draw_normal(2, 4, 10, seed=3)
    fit = ConjugateGradients(signals, y, np.zeros((48, 4)))
    before = np.square(y - y.mean(axis=(0, 2), keepdims=True)).sum()
    fit.step()
    assert np.square(fit.wrong - fit.wrong.mean(axis=(0, 2), keepdims=True)).sum() < before


def test_a_fit_is_chosen_by_what_was_not_fitted_and_never_worse_there():
    weights = draw_normal(32, 3, seed=1)
    both = [
        SignalRows(x, gather_sums(x, weights, LINE) + 2)
        for x in (draw_normal(40, 2, 20), draw_normal(9, 2, 20))
    ]
    found = refit_long(*both, LINE, np.zeros((1, 32, 3)), importance=None, has_intercept=True)
    np.testing.assert_allclose(found.weights[0], weights, atol=2e-3)
    np.testing.assert_allclose(found.intercept[0], 2, atol=2e-3)
    assert found.after < 1e-5
    assert found.before > 0.9
    noise = (
        SignalRows(both[0].x[:2], draw_normal(2, 3, 10, seed=8)),
        SignalRows(both[1].x, np.zeros((9, 3, 10), np.float32)),
    )
    kept = refit_long(*noise, LINE, np.zeros((1, 32, 3)), importance=None, has_intercept=False)
    assert np.isnan(kept.ridge)
    assert not kept.weights.any()
    assert kept.after == kept.before


def test_without_a_channel_the_others_do_what_they_can(monkeypatch):
    monkeypatch.setattr(long_kernels, "STEPS", 40)
    x, matrix = draw_normal(60, 3, 20) + 1, draw_normal(1, 48, 4, seed=1).astype(np.float64)
    x[:, 1] = -x[:, 0]  # so the first can stand in for the second
    long = LongKernel(LINE, 60)
    long.add(x[:50])
    long.add(x[50:])
    found, missing = long.ablate(np.array([1]), matrix, has_intercept=True)
    assert not found[0, 16:32].any()
    right = matrix[0, :16] - matrix[0, 16:32]
    np.testing.assert_allclose(found[0, :16], right, atol=5e-3)
    np.testing.assert_allclose(found[0, 32:], matrix[0, 32:], atol=5e-3)
    np.testing.assert_allclose(missing, 0, atol=2e-2)


def test_spectra_sum_up_to_the_mean_squares_of_what_is_read(monkeypatch):
    x, matrix = draw_normal(50, 3, 20) + 1, draw_normal(1, 48, 4, seed=1).astype(np.float64)
    long = LongKernel(LINE, 50, [x])
    spectra, kernels = long.spectra(matrix)
    products = np.cov(x.transpose(1, 0, 2).reshape(3, -1), bias=True)
    np.testing.assert_allclose(spectra.sum(axis=0).real, products, rtol=1e-4, atol=1e-5)
    right = np.fft.rfft(matrix[0].reshape(3, 16, 4), 20, axis=1).conj().transpose(1, 0, 2)
    np.testing.assert_allclose(kernels, right, atol=1e-4)
    monkeypatch.setattr(long_kernels, "MOST_IN_PRODUCTS", 40)  # every third of eleven
    some, fewer = long.spectra(matrix)
    assert len(some) == len(fewer) == 4
    np.testing.assert_allclose(fewer, kernels[1::3], atol=1e-6)
    np.testing.assert_allclose(np.trace(some.sum(axis=0)).real, np.trace(products), rtol=0.2)


def test_short_cropped_or_slow_kernels_are_left_to_other_solvers(monkeypatch):
    shapes = (1, 3, 20), (1, 4, 10)
    assert LongKernel.of(LINE, *shapes, 70) is not None
    assert LongKernel.of(KernelGeometry((9,), (1,), ((0, 0),), (1,)), *shapes, 70) is None
    assert LongKernel.of(KernelGeometry((16,), (1,), ((-1, 0),), (1,)), *shapes, 70) is None
    monkeypatch.setattr(long_kernels, "MACS", 1e5)
    assert LongKernel.of(LINE, *shapes, 70) is None
