"""Convolutions over long kernels are fitted by spectra in both frameworks, to the same weights."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.reconstruction import dense_sums as in_keras
from secateurs.pytorch.reconstruction import dense_sums as in_pytorch
from secateurs.reconstruction import contraction_sums, long_kernels, refitting

WAVES = np.random.default_rng(0).normal(size=(80, 32, 1)).astype(np.float32)
GONE = np.array([1, 3, 4])


def torch_model():
    torch.manual_seed(0)
    front = [nn.Conv1d(1, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 16, 2, padding=7), nn.ReLU()]
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(60, 2)).eval()


def keras_model():
    plain = torch_model()
    x = keras.Input((32, 1))
    y = L.Conv1D(6, 3, activation="relu", name="first")(x)
    y = L.Conv1D(4, 16, 2, "same", activation="relu", name="long")(y)
    model = keras.Model(x, L.Dense(2, name="head")(L.Flatten()(L.Permute((2, 1))(y))))
    for name, layer in zip(("first", "long", "head"), (plain[0], plain[2], plain[5]), strict=True):
        kernel = layer.weight.detach().numpy().T
        model.get_layer(name).set_weights([kernel, layer.bias.detach().numpy()])
    return model


def of_torch():
    return torch_model(), np.ascontiguousarray(WAVES.transpose(0, 2, 1)), in_pytorch


def of_keras():
    return keras_model(), WAVES, in_keras


BOTH = {"pytorch": of_torch, "keras": of_keras}
on_both = pytest.mark.parametrize("made", BOTH.values(), ids=BOTH)


def weight_of(model):
    if isinstance(model, nn.Sequential):
        return model[2].weight.detach().numpy().T, model[2].bias.detach().numpy()
    return tuple(map(np.asarray, model.get_layer("long").get_weights()))


def answers(model, images):
    if isinstance(model, nn.Sequential):
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()
    return np.asarray(keras.ops.convert_to_numpy(model(images)))


def repair(made):
    model, images, _ = made()
    network = sec.trace(model, images[:1])
    group = network.groups[0].name
    small = sec.apply(model, network.cut({group: GONE.tolist()}), images[:1])
    return model, images, small, sec.repair(small, model, images)


def test_both_come_to_the_same_weights(monkeypatch):
    monkeypatch.setattr(refitting, "MOST_OF_LONG", 8)
    monkeypatch.setattr(long_kernels, "MOST_STEPS", 4)  # rounding decides which of several is best
    found = [weight_of(repair(made)[-1]) for made in BOTH.values()]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@on_both
def test_what_is_fitted_is_nearer(made, monkeypatch):
    monkeypatch.setattr(refitting, "MOST_OF_LONG", 8)
    model, images, small, better = repair(made)
    lost, left = (
        np.square(answers(one, images) - answers(model, images)).mean() for one in (small, better)
    )
    assert left < 0.7 * lost
    layers = sec.report_of(better).fidelity.layers
    assert any(one.inputs == 48 and one.after < one.before for one in layers)


def test_orders_and_refits_of_curves_are_the_same(monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", 8)
    found = []
    for made in BOTH.values():
        model, images, sums = made()
        network = sec.trace(model, images[:1])
        read = sums.contractions_of(network, CalibrationBatch(images, None), "relative", 0)
        (one,) = [one for one in read if one.spectra is not None]
        found.append((one.spectra, list(one.ablate(GONE).values())))
    (spectra, fitted), (others, theirs) = found
    for one, other in zip(spectra, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(fitted[0].T, theirs[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fitted[1], theirs[1], rtol=1e-3, atol=1e-4)
    assert not fitted[0][:, GONE].any()
