"""The vanilla CNN in Keras: convolutions and pools, flatten, and a dense layer of most weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def vanilla_cnn(
    classes: int = 10,
    in_channels: int = 1,
    size: int = 28,
    widths: Sequence[int] = (32, 32, 32, 32, 32),
    hidden: int = 256,
    learning_rate: float = 1e-3,
) -> Any:
    """A compiled model; ``secateurs compare cnn:vanilla_cnn`` takes this function.

    Args:
        classes: Outputs.
        in_channels: Channels of the images.
        size: Height and width of the images in pixels.
        widths: Filters of the five convolutions; the first two blocks end in a pool.
        hidden: Neurons of the dense layer.
        learning_rate: Of Adam.
    """
    one, two, three, four, five = widths
    model = keras.Sequential(
        [
            keras.Input((size, size, in_channels)),
            layers.Conv2D(one, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(two, 3, padding="same", activation="relu", name="conv2"),
            layers.Conv2D(three, 3, padding="same", activation="relu", name="conv3"),
            layers.MaxPooling2D(name="pool2"),
            layers.Conv2D(four, 3, padding="same", activation="relu", name="conv4"),
            layers.Conv2D(five, 3, padding="same", activation="relu", name="conv5"),
            layers.Flatten(name="flatten"),
            layers.Dense(hidden, activation="relu", name="hidden"),
            layers.Dense(classes, activation="softmax", name="head"),
        ],
        name="vanilla_cnn",
    )
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
