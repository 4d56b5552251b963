"""One small Keras model for each family of layers, and how to give them telling weights."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

ZOO = {}


def zoo(build):
    ZOO[build.__name__] = build
    return build


def noisy(model):
    """Weights and running statistics such that a wrong channel shows."""
    random = np.random.default_rng(0)

    def draw_values(variable, value):
        if not keras.backend.is_float_dtype(variable.dtype):
            return value
        values = 0.5 * random.normal(size=value.shape)
        return np.abs(values) + 0.3 if variable.name.endswith("variance") else values

    model.set_weights(
        [draw_values(v, w) for v, w in zip(model.weights, model.get_weights(), strict=True)]
    )
    return model


def _image(size=8, channels=3):
    return keras.Input((size, size, channels))


def _head(x, inputs):
    return keras.Model(inputs, L.Dense(2, name="head")(x))


@zoo
def sequences():
    i = keras.Input((12, 3))
    x = L.Conv1D(8, 3, padding="causal", activation="relu", name="a")(i)
    x = L.DepthwiseConv1D(3, depth_multiplier=2, name="d")(x)
    x = L.SeparableConv1D(6, 3, name="s")(x)
    x = L.Conv1DTranspose(5, 3, strides=2, name="t")(x)
    x = L.ELU()(L.ZeroPadding1D()(L.Cropping1D()(L.UpSampling1D()(x))))
    x = L.AveragePooling1D(2)(L.MaxPooling1D(2)(x))
    return _head(L.Flatten()(x), i)


@zoo
def volumes():
    i = keras.Input((4, 4, 4, 2))
    x = L.Conv3D(6, 2, activation="relu", name="a")(i)
    x = L.UpSampling3D()(L.AveragePooling3D(2)(L.ZeroPadding3D()(x)))
    x = L.Conv3DTranspose(4, 2, name="t")(L.Cropping3D(((1, 0), (0, 0), (0, 0)))(x))
    return _head(L.GlobalMaxPooling3D()(L.MaxPooling3D(2)(x)), i)


@zoo
def channels_first():
    # Ten pixels: Keras on TensorFlow adds a bias along the wrong axis where the last axis is as
    # long as there are filters.
    i = keras.Input((3, 10, 10))
    first = {"data_format": "channels_first"}
    x = L.Conv2D(6, 3, name="a", **first)(i)
    x = L.BatchNormalization(axis=1, name="bn")(x)
    x = L.ZeroPadding2D(**first)(L.UpSampling2D(**first)(L.MaxPooling2D(**first)(x)))
    x = L.Conv2D(5, 3, name="b", **first)(x)
    return _head(L.Flatten(**first)(x), i)


@zoo
def groups():
    i = _image()
    x = L.Conv2D(8, 3, name="a")(i)
    x = L.ReLU()(L.Conv2D(12, 3, groups=4, name="g")(x))
    x = L.Conv2D(12, 1, groups=12, name="h")(x)
    x = L.Conv2D(24, 1, groups=12, name="k")(x)
    return _head(L.GlobalAveragePooling2D()(x), i)


@zoo
def depthwise():
    i = _image()
    x = L.Conv2D(8, 3, name="a")(i)
    x = L.DepthwiseConv2D(3, depth_multiplier=3, name="d")(x)
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, name="s")(x)
    x = L.PReLU(shared_axes=[1, 2], name="p")(x)
    x = L.Conv2DTranspose(5, 3, strides=2, name="t")(x)
    x = L.Flatten()(L.GlobalMaxPooling2D(keepdims=True)(L.LeakyReLU()(x)))
    return _head(x, i)


@zoo
def norms():
    i = _image()
    x = L.GroupNormalization(4, name="gn")(L.Conv2D(8, 3, name="a")(i))
    x = L.GroupNormalization(-1, name="in")(L.Conv2D(8, 1, name="b")(x))
    x = L.LayerNormalization(name="ln")(L.Conv2D(6, 1, name="c")(x))
    x = L.UnitNormalization(name="un")(L.Conv2D(6, 1, name="d")(x))
    x = L.RMSNormalization(name="rms")(L.Conv2D(6, 1, name="e")(x))
    x = L.LayerNormalization(axis=[1, 2, 3], name="all")(L.Conv2D(6, 1, name="f")(x))
    return _head(L.Flatten()(x), i)


@zoo
def merges():
    i = _image()
    a, b, c = (L.Conv2D(6, 3, name=name)(i) for name in "abc")
    x = L.Multiply()([L.Add()([a, b]), c])
    x = L.Subtract()([L.Maximum()([x, a]), b])
    x = L.Minimum()([L.Average()([x, a]), c])
    x = L.Concatenate()([x, L.Conv2D(4, 3, name="w")(i)])
    x = L.Concatenate(axis=1)([x, x])
    return _head(L.GlobalAveragePooling2D()(x), i)


@zoo
def gates():
    i = _image()
    x = L.Conv2D(6, 3, activation="swish", name="a")(i)
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    s = L.Conv2D(3, 1, activation="relu", name="squeeze")(s)
    x = L.Multiply()([x, L.Conv2D(6, 1, activation="sigmoid", name="excite")(s)])
    x = L.GlobalAveragePooling2D()(x)
    return _head(L.Multiply()([x, L.Dense(6, activation="tanh", name="gate")(x)]), i)


@zoo
def moves():
    i = keras.Input((6,))
    x = L.Permute((2, 1))(L.Reshape((3, 4))(L.Dense(12, name="a")(i)))
    x = L.RepeatVector(3)(L.Flatten()(L.Dense(5, name="b")(x)))
    return _head(L.Reshape((12,))(L.Dense(4, name="c")(x)), i)


@zoo
def einsums():
    i = keras.Input((5, 6))
    x = L.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", name="a")(i)
    x = L.EinsumDense("...x,xy->...y", 7, activation="gelu", bias_axes="y", name="b")(x)
    x = L.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de", name="c")(x)
    x = L.EinsumDense("abde,def->abf", (None, 6), name="d")(x)
    return _head(L.GlobalAveragePooling1D()(x), i)


@zoo
def transformer():
    i = keras.Input((5,))
    x = L.Embedding(11, 8, name="emb")(i)
    y = L.MultiHeadAttention(3, 4, value_dim=5, dropout=0.1, name="att")(x, x)
    x = L.LayerNormalization(name="ln")(L.Add()([x, y]))
    y = L.Dense(8, name="down")(L.Dense(10, activation="gelu", name="up")(x))
    x = x + y
    x = L.MultiHeadAttention(2, 4, output_shape=6, name="last")(x, x, use_causal_mask=True)
    return _head(L.GlobalAveragePooling1D()(x), i)


@zoo
def wide_output():
    i = keras.Input((5, 6))
    x = L.Dense(8, name="d")(i)
    return _head(
        L.GlobalAveragePooling1D()(L.MultiHeadAttention(3, 4, use_gate=True, name="att")(x, x)), i
    )


@zoo
def grouped_queries():
    i = keras.Input((5, 6))
    x = L.Dense(8, name="d")(i)
    for name, heads in (("two", 3), ("own", 6), ("one", 1)):
        x = x + L.GroupQueryAttention(4, 6, heads, use_gate=heads == 3, name=name)(x, x)
    return _head(L.GlobalAveragePooling1D()(x), i)


@zoo
def attention():
    i = keras.Input((5, 6))
    q, k, v = (L.Dense(8, name=name)(i) for name in "qkv")
    x = [L.Attention()([q, v, k]), L.AdditiveAttention(name="add")([q, v])]
    x += [L.AdditiveAttention(use_scale=False)([q, v, k])]
    x += [L.Attention(score_mode="concat", use_scale=True)([q, v])]
    return _head(L.GlobalAveragePooling1D()(L.Concatenate()(x)), i)


@zoo
def recurrent():
    i = keras.Input((5, 6))
    x, h, c = L.LSTM(7, return_sequences=True, return_state=True, name="l")(i)
    x = L.LSTM(7, return_sequences=True, name="l2")(x, initial_state=[h, c])
    x = L.GRU(6, return_sequences=True, name="g")(x)
    x = L.SimpleRNN(5, return_sequences=True, name="s")(x)
    return _head(L.GRU(4, reset_after=False, name="g2")(x), i)


@zoo
def both_ways():
    i = keras.Input((5, 6))
    x = L.Bidirectional(L.LSTM(4, return_sequences=True), name="b")(i)
    x = L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode="sum", name="b2")(x)
    return _head(L.Bidirectional(L.SimpleRNN(3), name="b3")(x), i)


@zoo
def cells():
    i = keras.Input((5, 6))
    x = L.RNN(L.LSTMCell(4), return_sequences=True, name="r")(i)
    return _head(L.RNN([L.GRUCell(5), L.LSTMCell(3)], name="stack")(x), i)


@zoo
def convolutional_lstm():
    i = keras.Input((3, 5, 5, 2))
    x = L.ConvLSTM2D(5, 3, return_sequences=True, name="c")(i)
    return _head(L.GlobalAveragePooling2D()(L.ConvLSTM2D(4, 2, name="d")(x)), i)


@zoo
def steps():
    i = keras.Input((3, 6, 6, 2))
    x = L.TimeDistributed(L.Conv2D(5, 3, name="conv"), name="t")(i)
    x = L.TimeDistributed(L.BatchNormalization(name="bn"), name="tb")(x)
    x = L.TimeDistributed(L.GlobalAveragePooling2D())(x)
    x = L.TimeDistributed(L.Dense(6, name="dense"), name="td")(x)
    return _head(L.LSTM(4, name="l")(x), i)


@zoo
def dots():
    i = keras.Input((5, 6))
    a, b = L.Dense(8, name="a")(i), L.Dense(8, name="b")(i)
    x = L.Concatenate()([L.Dot(axes=2)([a, b]), L.Dot(axes=(2, 2), normalize=True)([a, b])])
    return keras.Model(
        i, [L.Dense(2, name="head")(L.Flatten()(x)), L.Dot(1)([L.Flatten()(a), L.Flatten()(b)])]
    )


@zoo
def operations():
    i = keras.Input((4, 6))
    a, b = L.Dense(8, name="a")(i), L.Dense(12, name="b")(i)
    x = ops.transpose(ops.reshape(b, (-1, 4, 3, 4)), (0, 1, 3, 2))
    p, q = ops.split(ops.reshape(x, (-1, 4, 12)), 2, axis=-1)
    x = L.Dense(10, name="c")(ops.concatenate([p * ops.sigmoid(q), a], axis=-1))
    x = L.Dense(6, name="d")(ops.relu(ops.flip(x, axis=-1)[..., 2:7]) + 1.0)
    y = ops.mean(ops.matmul(x, ops.matmul(ops.swapaxes(x, 1, 2), x)), axis=1)
    y = ops.einsum("bc,btc->bt", y, x)
    sums = [ops.sum(x, axis=-1), ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1)]
    return keras.Model(i, [L.Dense(2, name="head")(y), *sums])


@zoo
def nested_model():
    inner = keras.Input((8, 8, 6))
    x = L.BatchNormalization(name="bn")(L.Conv2D(5, 3, name="c")(inner))
    encoder = keras.Model(inner, x, name="encoder")
    tail = keras.Sequential(
        [keras.Input((6, 6, 5)), L.Conv2D(4, 1, name="q"), L.ReLU()], name="tail"
    )
    i = _image()
    a, b = (encoder(L.Conv2D(6, 1, name=name)(i)) for name in "ab")
    return _head(L.GlobalAveragePooling2D()(tail(L.Add()([a, b]))), i)


@zoo
def shared_layers():
    shared = L.Conv2D(6, 3, padding="same", name="c")
    i, j = keras.Input((8, 8, 3), name="i"), keras.Input((8, 8, 3), name="j")
    a, b = L.Conv2D(6, 1, name="a")(i), L.Conv2D(6, 1, name="b")(j)
    x = L.GlobalAveragePooling2D()(L.Concatenate()([shared(a), shared(b)]))
    return keras.Model([i, j], {"o": L.Dense(2, name="o")(x), "p": L.Dense(3, name="p")(x)})


@zoo
def preprocessing():
    i = _image()
    x = L.RandomFlip()(L.Rescaling(1 / 255.0)(i))
    x = L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 1.0])(x)
    x = L.SpectralNormalization(L.Conv2D(6, 3, name="conv"), name="s")(L.Resizing(6, 6)(x))
    x = L.Dropout(0.1)(L.SpatialDropout2D(0.1)(L.GaussianNoise(0.1)(L.CenterCrop(3, 3)(x))))
    return _head(L.Flatten()(L.PReLU(name="p")(x)), i)


@zoo
def masks():
    i = keras.Input((6,), dtype="int32")
    x = L.LayerNormalization(name="ln")(L.Embedding(9, 8, mask_zero=True, name="e")(i))
    x = L.LSTM(5, return_sequences=True, name="l")(x)
    return _head(L.GlobalAveragePooling1D()(x), i)
