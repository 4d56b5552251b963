"""The same small networks, with the same weights, for PyTorch and for Keras."""

from collections import OrderedDict
from typing import ClassVar

import keras
import numpy as np
import torch
from keras import layers as L
from torch import nn
from torch.nn import functional as F

ARCHITECTURES = ("plain", "residual", "mobile", "branches", "gated", "flipped")
SIZE = 6


class PlainNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.hidden = nn.Linear(6 * 2 * 2, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.head(F.relu(self.hidden(x.flatten(1))))


class ResidualNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stem_bn = nn.BatchNorm2d(8, eps=1e-3)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6, eps=1e-3)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.stem_bn(self.stem(x)))
        x = F.relu(x + self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(x.mean((2, 3)))


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.depthwise = nn.Conv2d(6, 12, 3, groups=6)
        self.pointwise = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.depthwise(F.relu(self.conv1(x))))
        return self.head(self.pointwise(x).mean((2, 3)))


class BranchesNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3)
        self.right = nn.Conv2d(3, 4, 3)
        self.grouped = nn.Conv2d(12, 8, 1, groups=4)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = torch.cat([F.relu(self.left(x)), self.right(x)], 1)
        return self.head(F.relu(self.grouped(x)))


class GatedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Linear(5, 8)
        self.gate = nn.Linear(5, 8)
        self.norm = nn.LayerNorm(8, eps=1e-3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(self.value(x) * torch.sigmoid(self.gate(x))))


class FlippedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(torch.flip(F.relu(self.conv1(x)), [1]))


def _plain(i):
    x = L.Conv2D(8, 3, activation="relu", name="conv1")(i)
    x = L.Flatten()(L.Conv2D(6, 3, activation="relu", name="conv2")(x))
    return L.Dense(4, name="head")(L.Dense(10, activation="relu", name="hidden")(x))


def _residual(i):
    x = L.BatchNormalization(name="stem_bn")(L.Conv2D(8, 3, padding="same", name="stem")(i))
    x = L.ReLU()(x)
    y = L.Conv2D(6, 3, padding="same", use_bias=False, name="conv1")(x)
    y = L.Conv2D(8, 3, padding="same", name="conv2")(L.ReLU()(L.BatchNormalization(name="bn1")(y)))
    return L.Dense(4, name="head")(L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([x, y]))))


def _mobile(i):
    x = L.Conv2D(6, 3, activation="relu", name="conv1")(i)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 1, name="pointwise")(x))
    return L.Dense(4, name="head")(x)


def _branches(i):
    left = L.Conv2D(8, 3, activation="relu", name="left")(i)
    x = L.Concatenate()([left, L.Conv2D(4, 3, name="right")(i)])
    return L.Conv2D(4, 1, name="head")(
        L.Conv2D(8, 1, groups=4, activation="relu", name="grouped")(x)
    )


def _build_gate(i):
    x = L.Dense(8, name="value")(i) * L.Dense(8, activation="sigmoid", name="gate")(i)
    return L.Dense(4, name="head")(L.LayerNormalization(name="norm")(x))


def _build_flip(i):
    x = L.Conv2D(8, 3, activation="relu", name="conv1")(i)
    return L.Conv2D(4, 1, name="head")(keras.ops.flip(x, axis=-1))


def _inputs(architecture):
    """Examples, in PyTorch's order of axes."""
    shape = (5,) if architecture == "gated" else (3, SIZE, SIZE)
    return np.random.default_rng(1).standard_normal((2, *shape)).astype("float32")


class PyTorch:
    name = "pytorch"
    weight = "weight"
    kinds: ClassVar = OrderedDict(
        plain=PlainNet,
        residual=ResidualNet,
        mobile=MobileNet,
        branches=BranchesNet,
        gated=GatedNet,
        flipped=FlippedNet,
    )

    def build(self, architecture):
        torch.manual_seed(0)
        model = self.kinds[architecture]().eval()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return model

    def inputs(self, architecture):
        return torch.from_numpy(_inputs(architecture))

    def outputs(self, model, architecture):
        with torch.no_grad():
            return model(self.inputs(architecture)).numpy()

    def params(self, model):
        return sum(p.numel() for p in model.parameters())

    def state(self, model):
        return [value.numpy().copy() for value in model.state_dict().values()]

    def freeze(self, model, layer):
        model.get_submodule(layer).requires_grad_(False)

    def is_frozen(self, model, layer):
        return not any(p.requires_grad for p in model.get_submodule(layer).parameters())

    def mislead(self, monkeypatch):
        """Register a wrong rule: a flip is treated as element-wise."""
        from secateurs.pytorch.tracing.rules.pointwise import apply_pointwise
        from secateurs.pytorch.tracing.rules.registry import RULES

        monkeypatch.setitem(RULES, torch.ops.aten.flip, apply_pointwise)


class Keras:
    name = "keras"
    weight = "kernel"
    kinds: ClassVar = OrderedDict(
        plain=_plain,
        residual=_residual,
        mobile=_mobile,
        branches=_branches,
        gated=_build_gate,
        flipped=_build_flip,
    )

    def build(self, architecture):
        i = keras.Input((5,) if architecture == "gated" else (SIZE, SIZE, 3))
        model = keras.Model(i, self.kinds[architecture](i), name=architecture)
        state = PyTorch().build(architecture).state_dict()
        for layer in model.layers:
            for variable in layer.weights:
                name, values = _theirs(layer, variable, state)
                variable.assign(_arrange(layer, name, values, architecture))
        return model

    def inputs(self, architecture):
        x = _inputs(architecture)
        return x if x.ndim == 2 else np.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def outputs(self, model, architecture):
        y = np.asarray(keras.ops.convert_to_numpy(model(self.inputs(architecture), training=False)))
        return y if y.ndim == 2 else y.transpose(0, 3, 1, 2)

    def params(self, model):
        moving = ("moving_mean", "moving_variance")
        return sum(int(np.prod(w.shape)) for w in model.weights if w.name not in moving)

    def state(self, model):
        return model.get_weights()

    def freeze(self, model, layer):
        model.get_layer(layer).trainable = False

    def is_frozen(self, model, layer):
        return not model.get_layer(layer).trainable

    def mislead(self, monkeypatch):
        from secateurs.keras.internals import operation_classes
        from secateurs.keras.tracing.rule_table import RULES
        from secateurs.keras.tracing.rules.pointwise import apply_pointwise

        monkeypatch.setitem(RULES, operation_classes("Flip")[0], apply_pointwise)


NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _theirs(layer, variable, state):
    name = f"{layer.name}.{NAMES[variable.name]}"
    return name, state[name].numpy()


def _arrange(layer, name, values, architecture):
    """PyTorch's weights in Keras's order of axes."""
    if isinstance(layer, L.DepthwiseConv2D) and values.ndim == 4:
        outputs, _, height, width = values.shape
        inputs = outputs // layer.depth_multiplier
        return values.reshape(inputs, -1, height, width).transpose(2, 3, 0, 1)
    if values.ndim == 4:
        return values.transpose(2, 3, 1, 0)
    if values.ndim == 2 and (architecture, name) == ("plain", "hidden.weight"):
        # After a flatten: channels, rows, columns in PyTorch; rows, columns, channels in Keras.
        return values.reshape(-1, 6, 2, 2).transpose(2, 3, 1, 0).reshape(-1, values.shape[0])
    return values.T


SIDES = {"pytorch": PyTorch(), "keras": Keras()}
