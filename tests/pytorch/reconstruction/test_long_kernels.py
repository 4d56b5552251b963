"""For a long kernel, error curves are those of a refit of all its taps."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.reconstruction import dense_sums
from secateurs.pytorch.reconstruction.program import Pieces
from secateurs.pytorch.reconstruction.sites import Sites
from secateurs.pytorch.trace_model import source_of
from secateurs.reconstruction import contraction_sums, long_kernels

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
    monkeypatch.setattr(long_kernels, "LEAST_TAPS", 17)
    assert ours < 0.9 * error(contraction(net).ablate(GONE))


def _tensors(changed):
    return ((name, torch.from_numpy(values)) for name, values in changed.items())


def test_what_would_take_too_long_mixes_channels(monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", 8)
    monkeypatch.setattr(long_kernels, "MACS", 1e4)
    assert contraction(model(True)).refit is None


def test_an_error_counts_by_what_batch_norm_behind_the_relu_makes_of_it():
    net = model(True, norm=True)
    source = source_of(sec.trace(net, waves()[:1]))
    pieces = Pieces(net, source.operations, CalibrationBatch(waves(), None))
    weight_ids = {id(one) for one in net.state_dict(keep_vars=True).values()}
    sites = Sites(pieces.steps, pieces.shapes, [3], weight_ids)
    site = next(one for one in sites.at.values() if one.map.weight is net[2].weight)
    right = net[4].weight.detach() ** 2 / (net[4].running_var + net[4].eps)
    np.testing.assert_allclose(site.importance[0], right, rtol=1e-5)
