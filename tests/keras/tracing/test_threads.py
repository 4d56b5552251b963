"""A model with composite layers can be traced in one thread while others use it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy

X = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
meanwhile = []
"""Called while the code of the layers below runs on tensors without data."""


@keras.saving.register_keras_serializable("tests")
class Inner(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(8,), name="scale")
        super().build(shape)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            for do in meanwhile:
                do()
        return x * self.scale

    def get_config(self):
        return super().get_config()


@keras.saving.register_keras_serializable("tests")
class Outer(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.wide, self.inner = L.Dense(8), Inner()
        self.mlp = keras.Sequential([L.Dense(5, activation="relu"), L.Dense(4)])

    def build(self, shape):
        self.wide.build(shape)
        self.inner.build((None, 8))
        self.mlp.build((None, 8))
        self.shift = self.add_weight(shape=(8,), name="shift")
        super().build(shape)

    def call(self, x):
        return self.mlp(self.inner(self.wide(x)) + self.shift)

    def get_config(self):
        return super().get_config()


def build_model():
    i = keras.Input((6,))
    return noisy(keras.Model(i, L.Dense(2, name="head")(Outer(name="outer")(i))))


def predict(model):
    return keras.ops.convert_to_numpy(model(X, training=False))


def test_a_model_works_in_another_thread_while_it_is_traced():
    model = build_model()
    expected, answers = predict(model), []

    def ask():
        thread = Thread(target=lambda: answers.append(predict(model)))
        thread.start()
        thread.join()

    meanwhile.append(ask)
    try:
        network = sec.trace(model)
    finally:
        meanwhile.clear()
    names = [group.name for group in network.groups]
    assert names == ["outer.wide", "outer.mlp.dense", "outer.mlp.dense_1"]
    assert answers
    for received in answers:
        np.testing.assert_array_equal(received, expected)


def test_two_threads_may_trace_and_cut_one_model():
    model, begin = build_model(), Barrier(4)
    expected = predict(model)

    def cut(_):
        begin.wait()
        return [predict(sec.delete_channels(model, {"outer.mlp.dense": [1]}, X)) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        received = [answer for answers in pool.map(cut, range(4)) for answer in answers]
    for other in received[1:]:
        np.testing.assert_array_equal(other, received[0])
    assert np.abs(received[0] - expected).max() > 1e-3
    assert type(model.get_layer("outer")) is Outer
    np.testing.assert_array_equal(predict(model), expected)
