"""Long kernels are refitted without the products of their inputs: against NumPy's least squares."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.reconstruction import dense_sums, descent
from secateurs.pytorch.reconstruction.program import Pieces
from secateurs.pytorch.reconstruction.sites import Sites
from secateurs.pytorch.trace_model import source_of
from secateurs.reconstruction import contraction_sums

GONE = np.array([1])


def model(bias, norm=False):
    torch.manual_seed(0)
    layers = [nn.Conv1d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 4, 16, stride=2, bias=bias)]
    layers += [nn.ReLU(), nn.BatchNorm1d(4)] if norm else [nn.ReLU()]
    found = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 2))
    if norm:
        found[4].running_var.uniform_(0.5, 2)
        found[4].weight.data.uniform_(0.5, 2)
    return found.eval()


def waves(count=40):
    return np.random.default_rng(0).normal(size=(count, 1, 32)).astype(np.float32)


def contraction(net):
    network = sec.trace(net, waves()[:1])
    found = dense_sums.contractions_of(network, CalibrationBatch(waves(), None), "relative", 0)
    return next(one for one in found if one.weight == "2.weight")


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_least_squares_solution_where_it_goes_on_to_the_end(bias, monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", 8)
    monkeypatch.setattr(descent, "STEPS", 80)
    monkeypatch.setattr(descent, "RIDGE", 0.0)
    net = model(bias)
    changed = contraction(net).ablate(GONE)
    with torch.no_grad():
        hidden = net[1](net[0](torch.from_numpy(waves())))
        wanted = net[2](hidden).transpose(1, 2).reshape(-1, 4).double().numpy()
    windows = hidden.unfold(2, 16, 2).transpose(1, 2)[:, :, [0, 2]].flatten(2).flatten(0, 1)
    patches = windows.double().numpy()
    if bias:
        patches = np.hstack([patches, np.ones((len(patches), 1))])
    right = np.linalg.lstsq(patches, wanted, rcond=None)[0]
    weight = changed["2.weight"]
    assert (weight[:, 1] == 0).all()
    found = weight[:, [0, 2]].reshape(4, -1).T
    if bias:
        found = np.vstack([found, changed["2.bias"]])
    # The error, not the weights: along directions in which it hardly changes, single precision
    # ends elsewhere on another processor.
    least = np.square(patches @ right - wanted).sum(0)
    np.testing.assert_allclose(np.square(patches @ found - wanted).sum(0), least, rtol=1e-4)
    np.testing.assert_allclose(found, right, atol=2e-3)


def test_a_few_steps_are_nearer_than_one_mixing_for_all_taps(monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", 8)
    net = model(True)

    def error(changed):
        twin = model(True)
        twin.load_state_dict({**twin.state_dict(), **dict(_tensors(changed))})
        with torch.no_grad():
            hidden = net[1](net[0](torch.from_numpy(waves())))
            return float((net[2](hidden) - twin[2](hidden)).square().mean())

    ours = error(contraction(net).ablate(GONE))
    monkeypatch.setattr(descent, "LEAST_TAPS", 17)
    assert ours < 0.9 * error(contraction(net).ablate(GONE))


def _tensors(changed):
    return ((name, torch.from_numpy(values)) for name, values in changed.items())


def test_what_would_take_too_long_mixes_channels(monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", 8)
    monkeypatch.setattr(descent, "MACS", 1e4)
    assert contraction(model(True)).refit is None


def test_an_error_counts_by_what_batch_norm_behind_the_relu_makes_of_it():
    net = model(True, norm=True)
    source = source_of(sec.trace(net, waves()[:1]))
    pieces = Pieces(net, source.operations, CalibrationBatch(waves(), None))
    own = {id(one) for one in net.state_dict(keep_vars=True).values()}
    sites = Sites(pieces.steps, pieces.shapes, [3], own)
    site = next(one for one in sites.at.values() if one.map.weight is net[2].weight)
    right = net[4].weight.detach() ** 2 / (net[4].running_var + net[4].eps)
    np.testing.assert_allclose(site.importance[0], right, rtol=1e-5)


def test_spectra_sum_up_to_the_mean_squares_of_what_is_read(monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", 8)
    net = model(True)
    spectra, kernels = contraction(net).spectra
    with torch.no_grad():
        hidden = net[1](net[0](torch.from_numpy(waves()))).double().numpy()
    products = np.einsum("ncp,ndp->cd", hidden, hidden) / (len(hidden) * hidden.shape[2])
    mean = hidden.mean(axis=(0, 2))
    np.testing.assert_allclose(spectra.sum(axis=0).real, products - np.outer(mean, mean), rtol=1e-6)
    right = np.fft.rfft(net[2].weight.detach().numpy(), 32).conj().transpose(2, 1, 0)
    np.testing.assert_allclose(kernels, right, atol=1e-6)
