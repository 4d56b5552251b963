"""Models inside layers: one that is called on each step, and one in a layer's own code."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy
from secateurs.keras.tracing.composites import paths_inside

STEPS = 3
CLIPS = np.random.default_rng(0).standard_normal((2, STEPS, 6, 6, 3)).astype("float32")
ROWS = np.random.default_rng(1).standard_normal((5, 6)).astype("float32")


def frames():
    i = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, activation="relu", name="first")(i)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Add(name="added")([x, L.Dropout(0.1, name="drop")(x)])  # does not accept ``training``
    x = L.Conv2D(5, 3, name="second")(x) * 2.0
    return keras.Model(i, L.GlobalAveragePooling2D(name="mean")(x), name="frames")


def clips(steps=STEPS):
    i = keras.Input((steps, 6, 6, 3))
    x = L.LSTM(4, name="lstm")(L.TimeDistributed(frames(), name="each")(i))
    return noisy(keras.Model(i, L.Dense(2, name="head")(x), name="clips"))


@keras.saving.register_keras_serializable("tests")
class Mixer(L.Layer):
    """A sequential model in a custom layer, as in most transformer blocks."""

    def __init__(self, **options):
        super().__init__(**options)
        self.mlp = keras.Sequential([L.Dense(8, activation="relu"), L.Dense(6)])

    def build(self, shape):
        self.mlp.build(shape)
        super().build(shape)

    def call(self, x, training=None):
        return x + self.mlp(x, training=training)

    def get_config(self):
        return super().get_config()


def rows():
    i = keras.Input((6,))
    x = Mixer(name="mixer")(L.Dense(6, name="before")(i))
    return noisy(keras.Model(i, L.Dense(2, name="head")(x), name="rows"))


def predict(model, x):
    return model.predict(x, verbose=0)


def zero_(layer, axis, gone):
    """Zero the weights with which a layer reads these channels."""
    kernel, *others = layer.get_weights()
    kernel[(slice(None),) * axis + (gone,)] = 0
    layer.set_weights([kernel, *others])


def test_a_time_distributed_model_is_cut_inside():
    model = clips()
    network = sec.trace(model, CLIPS)
    assert {group.name: len(group) for group in network.groups} == {
        "each.frames.first": 8,
        "each.frames.second": 5,
        "lstm/4x4": 4,
    }
    # By hand: 4 x 4 positions of 27 x 8 and 2 x 2 positions of 72 x 5, in each step.
    alone = keras.Model(model.inputs, model.get_layer("each").output)
    assert sec.trace(alone, CLIPS[:1]).macs() == STEPS * (16 * 27 * 8 + 4 * 72 * 5)


def test_its_cut_gives_the_outputs_of_the_dense_model_with_zeroed_readers(tmp_path):
    model = clips()
    gone = {"each.frames.first": [0, 3, 4], "each.frames.second": [2]}
    small = sec.delete_channels(model, gone, CLIPS)
    inner = model.get_layer("each").layer
    zero_(inner.get_layer("second"), 2, [0, 3, 4])
    zero_(model.get_layer("lstm"), 0, [2])
    np.testing.assert_allclose(predict(small, CLIPS), predict(model, CLIPS), atol=1e-6)
    each = small.get_layer("each")
    assert type(each) is L.TimeDistributed
    assert each.layer.get_layer("first").filters == 5
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(predict(again, CLIPS), predict(small, CLIPS))
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(clips(), tmp_path / "small.safetensors")
    np.testing.assert_array_equal(predict(again, CLIPS), predict(small, CLIPS))


def test_activations_inside_are_those_of_every_step():
    model = clips()
    scores = sec.score(sec.trace(model, CLIPS), "mean_activation", data=CLIPS)
    inner = model.get_layer("each").layer
    seen = keras.Model(inner.inputs, inner.get_layer("added").output)  # as the next reads it
    expected = np.abs(predict(seen, CLIPS.reshape(-1, 6, 6, 3))).mean((0, 1, 2))
    np.testing.assert_allclose(scores["each.frames.first"], expected, rtol=1e-4)


def test_an_open_number_of_steps_keeps_it_whole():
    network = sec.trace(clips(None), CLIPS)
    assert [group.name for group in network.groups] == ["lstm/4x4"]
    reasons = [reason for frozen in network.frozen for reason in frozen.reasons]
    assert (
        "each (TimeDistributed): the model inside it cannot be followed (its number of steps is "
        "unknown; give the Input a fixed length); call that model outside the wrapper"
    ) in reasons


def test_a_model_in_a_layers_code_is_cut_inside():
    model = rows()
    network = sec.trace(model)
    assert [group.name for group in network.groups] == ["before", "mixer.mlp.dense"]
    small = sec.delete_channels(model, {"mixer.mlp.dense": [1, 6]}, ROWS)
    zero_(model.get_layer("mixer").mlp.layers[1], 0, [1, 6])
    np.testing.assert_allclose(predict(small, ROWS), predict(model, ROWS), atol=1e-6)
    mlp = small.get_layer("mixer").mlp
    assert isinstance(mlp, keras.Sequential)
    assert mlp.layers[0].units == 6


def test_what_a_model_in_a_layers_code_is_called_on_loses_channels(tmp_path):
    model, gone = rows(), [1, 4]
    small = sec.delete_channels(model, {"before": gone}, ROWS)
    zero_(model.get_layer("mixer").mlp.layers[0], 0, gone)
    zero_(model.get_layer("head"), 0, gone)
    np.testing.assert_allclose(predict(small, ROWS), predict(model, ROWS), atol=1e-6)
    assert small.get_layer("mixer").mlp.input_shape == (None, 4)
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(rows(), tmp_path / "small.safetensors")
    np.testing.assert_array_equal(predict(again, ROWS), predict(small, ROWS))
    again = sec.delete_channels(small, {"before": [0]}, ROWS)  # a cut model is cut once more
    zero_(model.get_layer("mixer").mlp.layers[0], 0, [0])
    zero_(model.get_layer("head"), 0, [0])
    np.testing.assert_allclose(predict(again, ROWS), predict(model, ROWS), atol=1e-6)


def test_the_users_model_is_unchanged():
    for model, x in ((clips(), CLIPS), (rows(), ROWS)):
        parts = [part for layer in model.layers for part, _ in paths_inside(layer, "")]
        parts += model.layers
        before = [
            (type(part), len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts
        ]
        (name, *_) = (group.name for group in sec.trace(model, x).groups)
        sec.delete_channels(model, {name: [0]}, x)
        after = [
            (type(part), len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts
        ]
        assert after == before
