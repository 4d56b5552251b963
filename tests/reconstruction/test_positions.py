"""Positions are weighed by what a normalisation divides them by; both frameworks alike."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import secateurs as sec
from secateurs.reconstruction.positions import Division, weigh_positions

TOKENS, CHANNELS, UNITS = 6, 8, 12

# NumPy 2 says this of Keras's conversions.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def test_weights_are_one_over_the_squared_size():
    rows = np.array([[[1.0, 3.0], [6.0, 8.0]]], np.float32)
    found = weigh_positions(rows, Division.ROOT_MEAN_SQUARE)
    np.testing.assert_allclose(found, [[[1 / 5], [1 / 50]]], rtol=1e-6)
    found = weigh_positions(rows, Division.DEVIATION)  # both deviate by 1 from their mean
    np.testing.assert_allclose(found, [[[1.0], [1.0]]], rtol=1e-6)


def test_a_position_of_zeros_has_a_finite_weight():
    rows = np.array([[0.0, 0.0], [2.0, 2.0]], np.float32)
    np.testing.assert_allclose(
        weigh_positions(rows, Division.ROOT_MEAN_SQUARE), [[1 / 2e-6], [1 / 4]], rtol=1e-5
    )
    assert np.isfinite(weigh_positions(np.zeros((3, 2), np.float32), Division.DEVIATION)).all()


class Stream(nn.Module):
    """A residual stream, normalised before it is read."""

    def __init__(self, norm):
        super().__init__()
        self.inner, self.outer = nn.Linear(CHANNELS, UNITS), nn.Linear(UNITS, CHANNELS, bias=False)
        self.norm, self.head = norm, nn.Linear(CHANNELS, 5)

    def forward(self, x):
        return self.head(self.norm(x + self.outer(torch.relu(self.inner(x)))))


class ByHand(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "layer norm": lambda: nn.LayerNorm(CHANNELS, elementwise_affine=False),
    "root mean square": lambda: nn.RMSNorm(CHANNELS, elementwise_affine=False),
    "by hand": ByHand,
}


def keras_stream(norm):
    x = keras.Input((TOKENS, CHANNELS))
    inner = L.Dense(UNITS, activation="relu", name="inner")(x)
    total = L.Add()([x, L.Dense(CHANNELS, use_bias=False, name="outer")(inner)])
    if norm == "layer norm":
        read = L.LayerNormalization(center=False, scale=False, epsilon=1e-5)(total)
    elif norm == "root mean square":
        read = L.RMSNormalization(epsilon=1e-6)(total)
    else:
        square = keras.ops.mean(keras.ops.square(total), axis=-1, keepdims=True)
        read = total * keras.ops.rsqrt(square + 1e-6)
    return keras.Model(x, L.Dense(5, name="head")(read))


def texts():
    """The first position is a thousand times as large as the others, and of other signs."""
    values = np.random.default_rng(0).normal(size=(160, TOKENS, CHANNELS)).astype(np.float32)
    values[:, 0] = 1000 * np.abs(values[:, 0])
    return values


def weights_of(model):
    return {name: getattr(model, name).weight.detach().numpy().T for name in ("inner", "outer")}


def normalise(x, norm):
    x = x - x.mean(-1, keepdims=True) if norm == "layer norm" else x
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True))


def off_after(x, inner, bias, outer, wanted, norm):
    """Mean squared error of the normalised stream at the ordinary positions."""
    read = np.maximum(x @ inner + bias, 0)
    found = normalise(x + read @ outer, norm)
    return np.square(found - wanted)[:, 1:].mean()


@pytest.mark.parametrize("norm", NORMS)
def test_one_huge_position_does_not_decide_the_fit(norm):
    torch.manual_seed(0)
    dense, x = Stream(NORMS[norm]()).eval(), texts()
    inner, outer = weights_of(dense).values()
    bias = dense.inner.bias.detach().numpy()
    kept = np.arange(0, UNITS, 2)
    gone = sorted(set(range(UNITS)) - set(kept))
    small = sec.delete_channels(dense, {"inner": gone}, torch.from_numpy(x[:2]))
    repaired = sec.repair(small, dense, torch.from_numpy(x))

    stream = x + np.maximum(x @ inner + bias, 0) @ outer
    wanted = normalise(stream, norm)
    read = np.maximum(x @ inner[:, kept] + bias[kept], 0).reshape(-1, len(kept))
    plain = np.linalg.lstsq(read, (stream - x).reshape(-1, CHANNELS), rcond=None)[0]
    fitted = repaired.outer.weight.detach().numpy().T
    ours = off_after(x, inner[:, kept], bias[kept], fitted, wanted, norm)
    theirs = off_after(x, inner[:, kept], bias[kept], plain, wanted, norm)
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("norm", NORMS)
def test_both_frameworks_fit_the_same_weights(norm):
    torch.manual_seed(0)
    dense, x = Stream(NORMS[norm]()).eval(), texts()
    other = keras_stream(norm)
    for name in ("inner", "outer", "head"):
        layer = getattr(dense, name)
        parts = [layer.weight.T, *([] if layer.bias is None else [layer.bias])]
        other.get_layer(name).set_weights([one.detach().numpy() for one in parts])
    gone = {"inner": list(range(1, UNITS, 2))}
    fitted = []
    for model, data in ((dense, torch.from_numpy(x)), (other, x)):
        small = sec.delete_channels(model, gone, data[:2])
        fitted.append(sec.repair(small, model, data))
    ours = fitted[0].outer.weight.detach().numpy().T
    theirs = fitted[1].get_layer("outer").get_weights()[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


class Powers(nn.Module):
    """What reads the sum looks like the square of a normalisation, and is none."""

    def __init__(self, exponent):
        super().__init__()
        self.inner, self.outer = nn.Linear(CHANNELS, UNITS), nn.Linear(UNITS, CHANNELS)
        self.scale, self.exponent = nn.Parameter(torch.full((CHANNELS,), 2.0)), exponent
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x):
        total = x + self.outer(torch.relu(self.inner(x)))
        return self.head(total.pow(self.exponent) + self.scale * total + total * self.scale)


@pytest.mark.parametrize("exponent", [torch.full((CHANNELS,), 2.0), torch.tensor(2.0), 2, 3])
def test_powers_and_products_with_tensors_are_no_squares(exponent):
    torch.manual_seed(0)
    dense = Powers(exponent).eval()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(160, TOKENS, CHANNELS))).float()
    small = sec.delete_channels(dense, {"inner": list(range(1, UNITS, 2))}, x[:2])
    stages = {one.name: one.fidelity for one in sec.report_of(sec.repair(small, dense, x)).fidelity}
    assert stages["repaired"].distance < 0.5 * stages["dropped"].distance
