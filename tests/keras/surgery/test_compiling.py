import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.channels.cut import Cut, TensorCut
from secateurs.keras.surgery.compiling import cut_of_slot
from support.keras_networks import X, Y, classifier


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)),
        lambda: keras.optimizers.AdamW(0.01, use_ema=True),
        lambda: keras.optimizers.Adafactor(0.01),
    ],
    ids=["momentum", "schedule", "average", "factored"],
)
def test_the_optimizer_state_is_sliced_along(optimizer):
    model = classifier()
    model.compile(optimizer(), "mse", metrics=["mae"])
    model.fit(X, Y, batch_size=4, verbose=0)
    small = sec.delete_channels(model, {"conv": [0, 3], "hidden": [1]})
    mine, theirs = model.optimizer, small.optimizer
    assert theirs.get_config() == mine.get_config()
    assert int(theirs.iterations) == int(mine.iterations) == 2
    # Some of Adafactor's states have no names, so only their order identifies them.
    for variable, other in zip(mine.variables, theirs.variables, strict=True):
        before, after = (np.asarray(keras.ops.convert_to_numpy(v.value)) for v in (variable, other))
        if variable.path.endswith(("conv_kernel_momentum", "conv_kernel_velocity")):
            kept = [1, 2, 4, 5, 6, 7]
            assert np.array_equal(after, before[..., kept])
        elif after.shape == before.shape and "conv" not in variable.path:
            assert np.array_equal(after, before)
    small.fit(X, Y, batch_size=4, verbose=0)
    if not (mine.use_ema and keras.backend.backend() == "jax"):  # Keras 3.15 cannot fit it twice
        model.fit(X, Y, batch_size=4, verbose=0)


@pytest.mark.parametrize("by", ["names", "variables"])
def test_exclusions_from_weight_decay_are_kept(by):
    """An SGD step without gradients changes only variables with weight decay."""
    model = classifier()
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    spared = [v for v in model.trainable_variables if v.name in ("bias", "gamma", "beta")]
    optimizer.exclude_from_weight_decay(
        **({"var_names": ["bias", "gamma", "beta"]} if by == "names" else {"var_list": spared})
    )
    model.compile(optimizer, lambda truth, given: 0.0 * keras.ops.sum(given))
    small = sec.delete_channels(model, {"conv": [0, 3], "hidden": [1]})
    before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in small.trainable_variables}
    small.fit(X, Y, batch_size=8, verbose=0)
    for variable in small.trainable_variables:
        now = keras.ops.convert_to_numpy(variable.value)
        factor = 0.95 if variable.name == "kernel" else 1
        np.testing.assert_allclose(now, factor * before[variable.path], rtol=1e-5)


def test_only_state_of_its_variables_shape_is_sliced():
    """A factored second moment has another shape: for a 3 x 4 weight, a row of 4 is not axis 0."""
    of_kernel = TensorCut((3, 4), {0: (1,)})
    cut = Cut({"kernel": of_kernel})
    assert cut_of_slot(cut, "kernel", (3, 4)) is of_kernel
    assert cut_of_slot(cut, "kernel", (4,)) is None
    assert cut_of_slot(cut, "bias", (4,)) is cut_of_slot(cut, None, (3, 4)) is None


def test_the_copy_is_compiled_like_the_model():
    def near(y, prediction):
        return keras.ops.mean(keras.ops.abs(y - prediction) < 1)

    def loss(y, prediction):
        return keras.ops.mean(keras.ops.square(y - prediction))

    i = keras.Input((6,))
    x = L.Dense(8, name="d")(i)
    model = keras.Model(i, {"a": L.Dense(1, name="a")(x), "b": L.Dense(1, name="b")(x)})
    model.compile(
        keras.optimizers.RMSprop(0.003, clipnorm=1.0),
        loss={"a": loss, "b": "mae"},
        loss_weights={"a": 0.2, "b": 0.8},
        metrics={"a": [near, keras.metrics.MeanSquaredError(name="mse")]},
        run_eagerly=True,
    )
    small = sec.delete_channels(model, {"d": [0]})
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert small.run_eagerly
    assert small.jit_compile == model.jit_compile
    x, y = np.ones((4, 6), "float32"), {"a": np.ones((4, 1)), "b": np.ones((4, 1))}
    found = small.evaluate(x, y, verbose=0, return_dict=True)
    assert set(found) == set(model.evaluate(x, y, verbose=0, return_dict=True))
    total = 0.2 * found["a_loss"] + 0.8 * found["b_loss"]
    assert found["loss"] == pytest.approx(total, rel=1e-4)


def test_an_uncompiled_model_stays_uncompiled():
    assert not sec.delete_channels(classifier(), {"conv": [0]}).compiled
