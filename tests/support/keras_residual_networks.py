"""Keras networks of residual blocks, in the forms that users write."""

import keras
from keras import layers as L
from keras import ops


def residual(blocks=4, width=8, side=8):
    """A small ResNet in one graph; every second block after the first halves nothing."""
    inputs = keras.Input((side, side, 3), name="images")
    x = L.ReLU(name="stem_relu")(L.Conv2D(width, 3, padding="same", name="stem")(inputs))
    for n in range(blocks):
        y = L.Conv2D(width, 3, padding="same", name=f"b{n}_one", use_bias=False)(x)
        y = L.ReLU(name=f"b{n}_relu")(L.BatchNormalization(name=f"b{n}_norm")(y))
        y = L.Conv2D(width, 3, padding="same", name=f"b{n}_two")(y)
        x = L.ReLU(name=f"b{n}_out")(L.Add(name=f"b{n}_sum")([x, y]))
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(5, name="head")(x), name="residual")


def build_projection():
    """A block with a projection on its skip, and a sum of two equals, which is none."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
    short = L.BatchNormalization(name="skip_norm")(L.Conv2D(8, 1, strides=2, name="skip")(x))
    y = L.Conv2D(4, 3, 2, padding="same", activation="relu", name="one")(x)
    y = L.Conv2D(8, 3, padding="same", name="two")(y)
    y = L.Conv2D(8, 3, padding="same", name="three")(y)
    x = L.Add(name="sum")([y, short])
    x = L.Add(name="equals")([L.Conv2D(8, 1, name="left")(x), L.Conv2D(8, 1, name="right")(x)])
    x = L.GlobalMaxPooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x), name="projected")


def transformer(layers=2, width=12):
    """A ViT in one graph: attention and the perceptron behind it are a block each."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Conv2D(width, 2, 2, name="patches")(inputs)
    x = L.Reshape((16, width), name="tokens")(x)
    for n in range(layers):
        y = L.LayerNormalization(name=f"l{n}_norm")(x)
        y = L.MultiHeadAttention(3, 4, name=f"l{n}_attention")(y, y)
        x = ops.add(x, y)
        y = L.LayerNormalization(name=f"l{n}_norm2")(x)
        y = L.Dense(24, "gelu", name=f"l{n}_wide")(y)
        y = L.Dropout(0.1, name=f"l{n}_drop")(L.Dense(width, name=f"l{n}_narrow")(y))
        x = x + y
    x = L.GlobalAveragePooling1D(name="pool")(L.LayerNormalization(name="norm")(x))
    return keras.Model(inputs, L.Dense(5, name="head")(x), name="transformer")


@keras.saving.register_keras_serializable(package="residual_networks")
class Encoder(L.Layer):
    """A transformer's layer, in a class of its own: two sums."""

    def __init__(self, width=12, **options):
        super().__init__(**options)
        self.width = width
        self.norm = L.LayerNormalization(name="norm")
        self.attention = L.MultiHeadAttention(3, 4, name="attention")
        self.norm2 = L.LayerNormalization(name="norm2")
        self.wide = L.Dense(24, "gelu", name="wide")
        self.narrow = L.Dense(width, name="narrow")

    def build(self, shape):
        for part in (self.norm, self.norm2, self.wide):
            part.build(shape)
        self.attention.build(shape, shape)
        self.narrow.build((*shape[:-1], 24))

    def call(self, x, training=None):
        y = self.norm(x)
        x = x + self.attention(y, y, training=training)
        return x + self.narrow(self.wide(self.norm2(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="residual_networks")
class Rectified(L.Layer):
    """A block of convolutions in a class of its own, with a ReLU behind its sum."""

    def __init__(self, width=8, **options):
        super().__init__(**options)
        self.width = width
        self.one = L.Conv2D(width, 3, padding="same", activation="relu", name="one")
        self.two = L.Conv2D(width, 3, padding="same", name="two")

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x):
        return ops.relu(self.two(self.one(x)) + x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="residual_networks")
class Stack(L.Layer):
    """Several blocks inside another layer."""

    def __init__(self, count=3, **options):
        super().__init__(**options)
        self.count = count
        self.units = [Rectified(name=f"unit{n}") for n in range(count)]

    def build(self, shape):
        for unit in self.units:
            unit.build(shape)

    def call(self, x):
        for unit in self.units:
            x = unit(x)
        return x

    def get_config(self):
        return {**super().get_config(), "count": self.count}


def encoders(layers=3):
    """A ViT of layers of a class."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Reshape((16, 12), name="tokens")(L.Conv2D(12, 2, 2, name="patches")(inputs))
    for n in range(layers):
        x = Encoder(name=f"layer{n}")(x)
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, L.Dense(5, name="head")(x), name="encoders")


def build_stack():
    """Blocks in a layer, and one beside it."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = Rectified(name="alone")(x)
    x = Stack(name="stack")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(5, name="head")(x), name="stacked")


class Subclassed(keras.Model):
    """A subclassed model of blocks in a list."""

    def __init__(self, count=3, **options):
        super().__init__(**options)
        self.stem = L.Conv2D(8, 3, padding="same")
        self.units = [Rectified() for _ in range(count)]
        self.head = L.Dense(5)

    def call(self, x, training=None):
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        return self.head(ops.mean(x, axis=(1, 2)))
