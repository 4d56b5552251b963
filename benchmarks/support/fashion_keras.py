"""Small Keras networks for Fashion-MNIST, trained once and kept; and the same ones in PyTorch.

Both frameworks take the same images, channels last in Keras and first in PyTorch. A convolution of
stride two has its zeros from a layer of its own, so that both place them alike.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import torch
from keras import layers as L
from torch import nn
from torch.nn import functional as F

from secateurs.data import load

EPOCHS = 8
BATCH = 128
RATE = 3e-3


def resnet() -> keras.Model:
    """Three stages of two residual blocks, 16 to 64 channels wide, batch norm, stem of stride 2."""
    i = keras.Input((28, 28, 1))
    x = L.ReLU()(_add_norm(i, 16, 2, "stem"))
    for stage, width in enumerate((16, 32, 64)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            name = f"block{stage}{block}"
            skip = x
            if stride == 2:
                skip = L.Conv2D(width, 1, strides=2, use_bias=False, name=f"{name}_skip")(x)
                skip = L.BatchNormalization(name=f"{name}_skip_norm")(skip)
            y = L.ReLU()(_add_norm(x, width, stride, f"{name}_conv1"))
            x = L.ReLU()(L.Add()([skip, _add_norm(y, width, 1, f"{name}_conv2")]))
    return keras.Model(i, L.Dense(10, name="head")(L.GlobalAveragePooling2D()(x)), name="resnet")


def _add_norm(x, width, stride, name):
    if stride == 2:
        x = L.ZeroPadding2D(1)(x)
    padding = "valid" if stride == 2 else "same"
    x = L.Conv2D(width, 3, strides=stride, padding=padding, use_bias=False, name=name)(x)
    return L.BatchNormalization(name=f"{name}_norm")(x)


def cnn() -> keras.Model:
    """Three convolutions and pools, and a dense layer that holds most of the weights."""
    x = i = keras.Input((28, 28, 1))
    for number, width in enumerate((24, 48, 96)):
        x = L.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        x = L.MaxPooling2D()(x)
    x = L.Dense(128, activation="relu", name="hidden")(L.Flatten()(x))
    return keras.Model(i, L.Dense(10, name="head")(x), name="cnn")


NETWORKS: dict[str, Callable[[], keras.Model]] = {"resnet": resnet, "cnn": cnn}


def images_of(split, rows=slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Images, channels last, and labels."""
    images, labels = split.batch(rows)
    return np.ascontiguousarray(np.moveaxis(images, 1, -1)), labels


def load_or_train(name: str, seed: int, folder: Path) -> keras.Model:
    """A dense network, read from ``folder`` or trained and written there."""
    path = folder / f"fashion_keras_{name}_seed{seed}.weights.h5"
    keras.utils.set_random_seed(seed)
    model = NETWORKS[name]()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _train_(model, seed, path)
    model.load_weights(path)
    return model


def _train_(model: keras.Model, seed: int, path: Path) -> None:
    data = load("fashion-mnist", seed=0)
    images, labels = images_of(data.train)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        RATE / 10, steps, warmup_target=RATE, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    random = np.random.default_rng(seed)
    start = time.process_time()
    for epoch in range(EPOCHS):
        mirrored = random.random(len(images)) < 0.5
        changed = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        model.fit(
            changed, labels, batch_size=BATCH, verbose=0, epochs=epoch + 1, initial_epoch=epoch
        )
        print(f"{path.stem}: epoch {epoch + 1}, {time.process_time() - start:.0f} s", flush=True)
    how = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "optimizer": f"AdamW, one cosine from {RATE}, weight decay 0.001",
        "augmentation": "half of the images mirrored",
        "seed": seed,
        "training_images": len(images),
        "test_accuracy": accuracy(model, *images_of(data.test)),
        "cpu_seconds": round(time.process_time() - start),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }
    path.with_suffix(".json").write_text(json.dumps(how, indent=1) + "\n")
    part = path.with_name(f"part_{path.name}")
    model.save_weights(part)
    os.replace(part, path)


def accuracy(model: keras.Model | nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images, channels last, that are put into the right class."""
    right = 0
    for start in range(0, len(images), 500):
        part = images[start : start + 500]
        with torch.inference_mode():
            if isinstance(model, keras.Model):
                scores = keras.ops.convert_to_numpy(model(part, training=False))
            else:
                first = np.ascontiguousarray(np.moveaxis(part, -1, 1))
                scores = model.eval()(torch.from_numpy(first)).numpy()
        right += int((scores.argmax(1) == labels[start : start + 500]).sum())
    return right / len(images)


class Torch(nn.Module):
    """A PyTorch module that does what one of the Keras networks does, with its weights."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.kind = model.name
        self.parts = nn.ModuleDict()
        for layer in model.layers:
            if isinstance(layer, L.Conv2D):
                self.parts[layer.name] = _convolution(layer)
            elif isinstance(layer, L.BatchNormalization):
                self.parts[layer.name] = _norm(layer)
            elif isinstance(layer, L.Dense):
                behind = 96 if self.kind == "cnn" and layer.name == "hidden" else 1
                self.parts[layer.name] = _linear(layer, behind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images, channels first, in; scores of classes out."""
        return self._resnet(x) if self.kind == "resnet" else self._cnn(x)

    def _cnn(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(3):
            x = F.max_pool2d(self.parts[f"conv{number}"](x).relu(), 2)
        return self.parts["head"](self.parts["hidden"](x.flatten(1)).relu())

    def _resnet(self, x: torch.Tensor) -> torch.Tensor:
        def apply_normalised(x: torch.Tensor, name: str) -> torch.Tensor:
            return self.parts[f"{name}_norm"](self.parts[name](x))

        x = apply_normalised(x, "stem").relu()
        for name in [f"block{stage}{block}" for stage in range(3) for block in range(2)]:
            skip = apply_normalised(x, f"{name}_skip") if f"{name}_skip" in self.parts else x
            y = apply_normalised(x, f"{name}_conv1").relu()
            x = (skip + apply_normalised(y, f"{name}_conv2")).relu()
        return self.parts["head"](x.mean((2, 3)))


def in_pytorch(model: keras.Model) -> nn.Module:
    """The same network, with the same weights."""
    return Torch(model).eval()


def _numbers(variable) -> torch.Tensor:
    return torch.tensor(np.asarray(keras.ops.convert_to_numpy(variable)))


@torch.no_grad()
def _convolution(layer) -> nn.Conv2d:
    kernel = _numbers(layer.kernel).permute(3, 2, 0, 1)
    outputs, inputs, size, _ = kernel.shape
    padded = size > 1  # by the layer itself, or by one of zeros before it
    bias = layer.bias is not None
    made = nn.Conv2d(inputs, outputs, size, layer.strides, padding=int(padded), bias=bias)
    made.weight.copy_(kernel)
    if made.bias is not None:
        made.bias.copy_(_numbers(layer.bias))
    return made


@torch.no_grad()
def _norm(layer) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(layer.gamma.shape[0], eps=layer.epsilon)
    for mine, theirs in (
        (made.weight, layer.gamma),
        (made.bias, layer.beta),
        (made.running_mean, layer.moving_mean),
        (made.running_var, layer.moving_variance),
    ):
        mine.copy_(_numbers(theirs))
    return made


@torch.no_grad()
def _linear(layer, behind: int) -> nn.Linear:
    """Behind a flatten of so many channels: positions first there, channels first here."""
    kernel = _numbers(layer.kernel).T
    made = nn.Linear(kernel.shape[1], kernel.shape[0])
    made.weight.copy_(kernel.unflatten(1, (-1, behind)).transpose(1, 2).flatten(1))
    made.bias.copy_(_numbers(layer.bias))
    return made
