"""What a proof runs by TensorFlow's own operations is what Keras's code gives."""

import keras
import numpy as np
import pytest

from secateurs.keras.internals import NOT_PLAIN, AssumedValues, set_mask
from secateurs.keras.proof.few_operations import call_in_few_operations

L = keras.layers
IMAGES = 5 * np.random.default_rng(0).standard_normal((2, 9, 8, 4)).astype("float32")
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's operations"
)
LAYERS = {
    "convolution": lambda: L.Conv2D(5, 3),
    "strides": lambda: L.Conv2D(5, (3, 2), strides=(2, 1), padding="same"),
    "holes and an activation": lambda: L.Conv2D(5, 3, dilation_rate=2, activation="gelu"),
    "no bias": lambda: L.Conv2D(5, 1, use_bias=False),
    "depthwise": lambda: L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
    "normalisation": lambda: L.BatchNormalization(epsilon=0.02),
    "activation": lambda: L.Activation("relu"),
    "activation up to six": lambda: L.Activation("relu6"),
    "relu": L.ReLU,
    "relu up to six": lambda: L.ReLU(6.0),
    "sum": L.Add,
    "padding": lambda: L.ZeroPadding2D(((0, 1), (2, 3))),
}


def select_images(layer, images=IMAGES):
    """The images, or three different ones for a layer that takes several."""
    several = isinstance(layer, L.Add)
    return [images, 2 * images, images[::-1]] if several else images


def build(make):
    layer = make()
    if not layer.built:
        layer.build(
            keras.tree.map_structure(lambda one: (None, *one.shape[1:]), select_images(layer))
        )
    random = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return layer


def run(layer, images=IMAGES, **options):
    given = keras.tree.map_structure(keras.ops.convert_to_tensor, select_images(layer, images))
    made = call_in_few_operations(layer, [given], {"training": False}, **options)
    return made if made is NOT_PLAIN else keras.ops.convert_to_numpy(made)


def run_by_keras(layer, images=IMAGES):
    options = {"training": False} if isinstance(layer, L.BatchNormalization) else {}
    return keras.ops.convert_to_numpy(layer(select_images(layer, images), **options))


@on_tensorflow
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_what_keras_gives(name):
    for _ in range(3):
        layer = build(LAYERS[name])
        np.testing.assert_allclose(run(layer), run_by_keras(layer), rtol=1e-5, atol=1e-4)


@on_tensorflow
def test_values_that_are_assumed_count():
    layer = build(LAYERS["convolution"])
    run(layer)
    halves = [(variable, variable.value / 2) for variable in layer.weights]
    expected = layer(IMAGES) / 2
    with keras.StatelessScope(state_mapping=halves):
        np.testing.assert_allclose(run(layer), expected, rtol=1e-5, atol=1e-5)


@on_tensorflow
def test_keras_runs_the_first_of_a_kind_only(monkeypatch):
    calls = []
    call = L.Conv2D.call
    monkeypatch.setattr(
        L.Conv2D, "call", lambda layer, inputs: (calls.append(layer), call(layer, inputs))[1]
    )
    first, alike, other = (
        build(lambda: L.Conv2D(5, 2, strides=3)),
        build(lambda: L.Conv2D(7, 3, strides=3)),
        build(lambda: L.Conv2D(7, 3, strides=3, padding="same")),
    )
    for layer in (first, alike, other, other):
        assert run(layer) is not NOT_PLAIN
    assert calls == [first, other]


@on_tensorflow
@pytest.mark.parametrize("name", LAYERS)
def test_keras_does_not_run_what_it_has_run_once(name, monkeypatch):
    assert run(build(LAYERS[name])) is not NOT_PLAIN
    layer = build(LAYERS[name])
    expected = run_by_keras(layer)
    for kind in type(layer).__mro__:
        for method in ("_merge_function", "convolution_op"):
            if method in vars(kind):
                monkeypatch.setattr(vars(kind)[method], "__code__", refuse.__code__)
    monkeypatch.setattr(type(layer).call, "__code__", refuse.__code__)
    np.testing.assert_allclose(run(layer), expected, rtol=1e-5, atol=1e-4)


def refuse(*arguments, **keywords):
    raise AssertionError(arguments, keywords)


@on_tensorflow
def test_zeros_agree_with_anything_and_so_prove_nothing():
    def make():
        return L.Conv2D(5, (1, 4), strides=(1, 4), use_bias=False)

    run(build(make), 0 * IMAGES)
    calls = []
    layer = build(make)
    call = type(layer).call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "__code__", count.__code__)
        patch.setitem(call.__globals__, "calls", calls)
        with pytest.raises(RuntimeError):
            run(layer)
    assert calls == [layer]


def count(self, *arguments):
    calls.append(self)  # noqa: F821 - a global of the patched function
    raise RuntimeError


@on_tensorflow
def test_fewer_channels_than_built_for_are_run_where_asked():
    layer, places = build(lambda: L.Conv2D(5, (3, 2), strides=(1, 2))), np.array([0, 3], np.int32)
    assert run(layer, any_width=True) is NOT_PLAIN  # Keras could not run the first of a kind
    run(layer)
    silent = IMAGES.copy()
    silent[..., [1, 2]] = 0
    kernel = keras.ops.convert_to_tensor(layer.get_weights()[0])
    assumed = AssumedValues(state_mapping=[(layer.kernel, kernel)])
    with assumed, assumed.picking(layer.kernel, places, axis=2):
        found = run(layer, IMAGES[..., places], any_width=True)
        with pytest.raises(ValueError, match="incompatible"):
            run(layer, IMAGES[..., places])
    np.testing.assert_allclose(found, layer(silent), rtol=1e-5, atol=1e-4)


@on_tensorflow
def test_code_that_computes_something_else_is_run_itself(monkeypatch):
    call = L.Conv2D.call
    monkeypatch.setattr(L.Conv2D, "call", lambda layer, inputs: 2 * call(layer, inputs))
    layer = build(LAYERS["convolution"])
    np.testing.assert_allclose(run(layer), layer(IMAGES), rtol=1e-6)
    assert run(layer) is NOT_PLAIN


def with_low_rank_weights():
    layer = L.Conv2D(4, 3)
    layer.build((None, *IMAGES.shape[1:]))
    layer.enable_lora(2)
    return layer


def with_own_method(kind=lambda: L.Conv2D(4, 3), method="call"):
    layer = kind()
    call = getattr(layer, method)
    setattr(layer, method, lambda inputs: 2 * call(inputs))
    return layer


class Own(L.ReLU):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Unhashable:
    """An activation that cannot tell kinds apart."""

    __hash__ = None

    def __eq__(self, other):
        return isinstance(other, Unhashable)

    def __call__(self, x):
        return 2 * x


def with_padding_mask(layer):
    given = keras.ops.convert_to_tensor(IMAGES)
    set_mask(given, keras.ops.ones(IMAGES.shape[:-1], dtype="bool"))
    return call_in_few_operations(layer, [given], {})


@pytest.mark.parametrize("name", ["relu", "activation", "padding"])
def test_tensors_with_padding_masks_are_left_to_keras(name):
    assert with_padding_mask(build(LAYERS[name])) is NOT_PLAIN


@pytest.mark.parametrize("shapes", [[(1, 3), (1, 1)], [(1, 4, 3), (1, 3)]])
def test_sums_of_different_shapes_are_left_to_keras(shapes):
    layer = L.Add()
    given = [keras.ops.ones(shape) for shape in shapes]
    layer(given)
    assert call_in_few_operations(layer, [given], {}) is NOT_PLAIN


@pytest.mark.parametrize(
    "make",
    [
        with_low_rank_weights,
        with_own_method,
        lambda: L.Conv2D(4, 3, groups=2),
        lambda: L.BatchNormalization(axis=1),
        lambda: L.BatchNormalization(scale=False),
        lambda: L.Conv2D(4, 3, dtype="mixed_bfloat16"),
        lambda: L.DepthwiseConv2D(3, dilation_rate=2),
        lambda: L.Dense(3),
        Own,
        lambda: with_own_method(L.ReLU),
        lambda: with_own_method(lambda: L.Activation("relu"), "activation"),
        lambda: with_own_method(L.Add, "_merge_function"),
        lambda: with_own_method(lambda: L.ZeroPadding2D(1)),
        lambda: L.Activation("gelu"),
        lambda: L.Activation("relu", dtype="mixed_bfloat16"),
        lambda: L.Activation("relu", activity_regularizer="l2"),
        lambda: L.ReLU(5.0),
        lambda: L.ReLU(negative_slope=0.1),
        lambda: L.ReLU(threshold=1.0),
        lambda: L.ReLU(dtype="float64"),
        lambda: L.ZeroPadding2D(1, data_format="channels_first"),
        lambda: L.Conv2D(4, 3, data_format="channels_first"),
        lambda: L.Conv2D(4, 3, activation=Unhashable()),
    ],
)
def test_others_are_left_to_keras(make):
    assert run(build(make)) is NOT_PLAIN


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="for the other backends")
@pytest.mark.parametrize("name", LAYERS)
def test_other_backends_run_all_by_keras(name):
    assert run(build(LAYERS[name])) is NOT_PLAIN
