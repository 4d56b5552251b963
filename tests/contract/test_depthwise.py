"""A depthwise convolution reads channels and passes them on: scored alike in both frameworks."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import secateurs as sec

CHANNELS = 6
IMAGES = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype("float32")
LABELS = np.arange(len(IMAGES)) % 4
KINDS = ("", "relu", "bn", "bn relu", "mult", "mult relu", "first relu", "relu pool")
SEPARABLE = ("separable", "separable mult", "separable first")
CRITERIA = ("apoz", "mean_activation", "std_activation", "fluctuation", "taylor", "fisher")


def in_pytorch(kind):
    """Layers by name: a convolution, a depthwise one (with ...), a pointwise one and a head."""
    torch.manual_seed(3)
    words, wide = kind.split(), CHANNELS * (2 if "mult" in kind else 1)
    parts = {"conv": nn.Conv2d(3, CHANNELS, 3, padding=1), "act": nn.ReLU()}
    if "first" in words:
        parts["first"] = nn.BatchNorm2d(CHANNELS, eps=1e-3)
    bias = "separable" not in words
    parts["depthwise"] = nn.Conv2d(CHANNELS, wide, 3, padding=1, groups=CHANNELS, bias=bias)
    if "bn" in words:
        parts["bn"] = nn.BatchNorm2d(wide, eps=1e-3)
    if "relu" in words:
        parts["relu"] = nn.ReLU()
    if "pool" in words:
        parts["pool"] = nn.AvgPool2d(2)
    parts |= {"pointwise": nn.Conv2d(wide, 8, 1), "last": nn.ReLU(), "head": nn.Conv2d(8, 4, 1)}
    parts |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    for norm in (parts[name] for name in ("first", "bn") if name in parts):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.eval()


def in_keras(kind):
    words, multiplier = kind.split(), 2 if "mult" in kind else 1
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(CHANNELS, 3, padding="same", activation="relu", name="conv")(i)
    x = L.BatchNormalization(name="first")(x) if "first" in words else x
    if "separable" in words:
        options = {"depth_multiplier": multiplier, "activation": "relu", "padding": "same"}
        x = L.SeparableConv2D(8, 3, name="separable", **options)(x)
    else:
        x = L.DepthwiseConv2D(3, 1, "same", depth_multiplier=multiplier, name="depthwise")(x)
        x = L.BatchNormalization(name="bn")(x) if "bn" in words else x
        x = L.ReLU()(x) if "relu" in words else x
        x = L.AveragePooling2D(2)(x) if "pool" in words else x
        x = L.Conv2D(8, 1, activation="relu", name="pointwise")(x)
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 1, name="head")(x))
    return copy_weights(in_pytorch(kind), keras.Model(i, x))


def copy_weights(dense, model):
    state = {name: tensor.numpy() for name, tensor in dense.state_dict().items()}

    def depthwise():
        weight = state["depthwise.weight"]
        return weight.reshape(CHANNELS, -1, 3, 3).transpose(2, 3, 0, 1)

    def plain(name):
        return state[f"{name}.weight"].transpose(2, 3, 1, 0), state[f"{name}.bias"]

    for layer in model.layers:
        if layer.name in ("conv", "pointwise", "head"):
            layer.set_weights(plain(layer.name))
        elif layer.name == "depthwise":
            layer.set_weights([depthwise(), state["depthwise.bias"]])
        elif layer.name == "separable":
            layer.set_weights([depthwise(), *plain("pointwise")])
        elif layer.name in ("first", "bn"):
            names = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([state[f"{layer.name}.{name}"] for name in names])
    return model


def scores_of(kind, criterion):
    dense, model = in_pytorch(kind), in_keras(kind)
    channels_last = IMAGES.transpose(0, 2, 3, 1)
    expected = dense(torch.from_numpy(IMAGES)).detach().numpy()
    received = keras.ops.convert_to_numpy(model(channels_last))
    assert np.allclose(expected, received, atol=1e-5)
    mine = sec.score(sec.trace(dense, torch.zeros(1, 3, 8, 8)), criterion, data=(IMAGES, LABELS))
    theirs = sec.score(sec.trace(model), criterion, data=(channels_last, LABELS))
    return list(mine.values()), list(theirs.values())


@pytest.mark.filterwarnings("ignore:apoz counts values:UserWarning")
@pytest.mark.parametrize("kind", [*KINDS, *SEPARABLE])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_same_weights_score_the_same(kind, criterion):
    for mine, theirs in zip(*scores_of(kind, criterion), strict=True):
        assert np.allclose(mine, theirs, rtol=1e-3, atol=1e-5 * np.abs(mine).max())


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [
        ("apoz", lambda h: (h != 0).mean((0, 2, 3))),
        ("mean_activation", lambda h: h.mean((0, 2, 3))),
    ],
)
def test_a_channel_is_judged_by_the_outputs_of_both_its_filters(criterion, measure):
    """The convolution's and the depthwise one's, each after its ReLU."""
    parts = dict(in_pytorch("relu").named_children())
    with torch.no_grad():
        first = parts["act"](parts["conv"](torch.from_numpy(IMAGES)))
        second = parts["relu"](parts["depthwise"](first))
    expected = (measure(first.numpy()) + measure(second.numpy())) / 2
    for received in scores_of("relu", criterion):
        assert np.allclose(received[0], expected, rtol=1e-5)
