"""The learner of Keras models: trains with ``fit``, saves, resumes and releases the model."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras import Learner, default_training
from secateurs.planning.auto_criterion import score_for
from support.keras_networks import DATA, IMAGES, LABELS, cnn, same, state


def test_a_compiled_model_is_retrained_as_it_was_compiled():
    model = cnn()
    model.fit(*DATA, epochs=3, batch_size=20, verbose=0)
    before = state(model)
    result = sec.iterate(
        model, DATA, DATA, DATA, step=0.2, criterion="apoz", stop=sec.Stop(rounds=2, tolerance=None)
    )
    small = result.model
    assert same(state(model), before)
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert small.get_layer("conv1").filters == 4
    assert result.report.proof.holds
    assert sec.trace(small).params() == result.history.last("prune")["params"]
    later = [r for r in result.history if r["kind"] == "train" and r["round"] > 0]
    assert [r["learning_rate"] for r in later] == pytest.approx([0.01] * len(later))
    measured = small.evaluate(*DATA, verbose=0)[1]
    assert measured == pytest.approx(result.history.last("stop")["test_accuracy"], abs=1e-6)


def test_retraining_is_what_fit_would_have_done():
    """An epoch of the loop is an epoch of ``fit`` on the same batches, with Adam's state sliced."""
    model = cnn(softmax=False)
    model.fit(*DATA, epochs=1, batch_size=60, verbose=0)
    learner = Learner(
        model, DATA, DATA, None, default_training(model).model_copy(update={"batch_size": 60})
    )
    network = learner.trace()
    cut = network.cut({"conv1": [0, 3]})
    by_hand = sec.apply(model, cut)
    learner.apply(cut, network)
    learner.train(0, [0.01, 0.01], lambda: None)
    for _ in range(2):  # a batch is the whole set: its order changes nothing but rounding
        by_hand.fit(*DATA, epochs=1, batch_size=60, verbose=0)
    for mine, theirs in zip(state(learner.model), state(by_hand), strict=True):
        assert np.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_model_is_trained_by_the_given_settings(optimizer):
    training = sec.Training(
        batches=45, batch_size=10, optimizer=optimizer, learning_rate=0.02, label_smoothing=0.1
    )
    model = cnn(compiled=None, dropout=0.2)
    result = sec.iterate(
        model, DATA, DATA, step=0.3, training=training, stop=sec.Stop(rounds=1, tolerance=None)
    )
    accuracies = [record["accuracy"] for record in result.history if record["kind"] == "train"]
    assert max(accuracies) > 0.8
    assert not result.model.compiled
    rates = [r["learning_rate"] for r in result.history if r["kind"] == "train"]
    assert len(set(rates)) > 1


def test_a_study_resumes_where_it_stopped(tmp_path):
    """A study interrupted after its first round and resumed ends with the same model."""
    settings = {
        "step": 0.2,
        "training": sec.Training(batches=6, batch_size=20, learning_rate=0.02, seed=3),
        "stop": sec.Stop(rounds=2, tolerance=None),
        "measure_speed": False,
    }

    class BrokenOffError(Exception):
        pass

    class Breaking(sec.Watcher):
        def recorded(self, record):
            if record["kind"] == "train" and record["round"] == 2:
                raise BrokenOffError

    model = cnn(dropout=0.3)
    whole = sec.iterate(model, DATA, DATA, directory=tmp_path / "whole", **settings)
    with pytest.raises(BrokenOffError):
        sec.iterate(model, DATA, DATA, directory=tmp_path / "b", watcher=Breaking(), **settings)
    again = sec.iterate(model, DATA, DATA, directory=tmp_path / "b", **settings)
    assert same(state(again.model), state(whole.model))
    loaded = sec.load(cnn(), tmp_path / "b" / "best.safetensors")
    assert same(state(loaded), state(again.model))
    assert (tmp_path / "b" / "report" / "report.html").exists()


def test_names_that_keras_numbered_anew_are_explained(tmp_path):
    def build_unnamed():
        i = keras.Input((8, 8, 1))
        x = keras.layers.Flatten()(i)
        model = keras.Model(i, keras.layers.Dense(4)(keras.layers.Dense(6)(x)))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    settings = {"training": sec.Training(batches=1, fine_tune_batches=1), "measure_speed": False}
    settings |= {"stop": sec.Stop(rounds=0), "directory": tmp_path / "study"}
    sec.iterate(build_unnamed(), DATA, DATA, **settings)
    with pytest.raises(sec.StudyError, match=r"another study.*clear_session\(\) before the model"):
        sec.iterate(build_unnamed(), DATA, DATA, **settings)


def test_a_snapshot_is_restored():
    learner = Learner(cnn(dropout=0.5), DATA, DATA, None, sec.Training(batch_size=20))
    learner.train(0, [0.05, 0.04], lambda: None)
    kept = learner.snapshot()
    packed = learner.pack(kept.tensors, {"a": "b"})
    tensors, message = learner.unpack(packed)
    assert message["a"] == "b"
    assert set(tensors) == set(kept.tensors)
    first = [learner.train(2, [0.05] * 3, lambda: None), state(learner.model)]
    learner.restore(kept)
    second = [learner.train(2, [0.05] * 3, lambda: None), state(learner.model)]
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(first[1], second[1], strict=True))
    with pytest.raises(sec.CheckpointError, match="expected a safetensors file"):
        learner.unpack(b"nothing")


@pytest.mark.parametrize("averages", ["by settings", "overwriting", "scaling"])
def test_a_snapshot_of_a_model_just_cut_resumes_with_the_same_average(averages):
    """The moving average starts anew after a cut, in the process that made it and in the next."""
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_overwrite_frequency=2)
    if averages == "scaling":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    settings = {"optimizer": "compiled"}
    if averages == "by settings":
        settings = {"optimizer": "sgd", "ema": 0.8}
    training = sec.Training(batch_size=20, learning_rate=0.05, **settings)
    learner, other = (
        Learner(cnn(compiled=optimizer), DATA, DATA, None, training) for _ in range(2)
    )
    learner.train(0, [0.05] * 3, lambda: None)
    learner.apply(learner.trace().cut({"conv1": [0, 3]}))
    repaired = learner.model.get_layer("conv1").bias
    repaired.assign(repaired + 0.5)  # as a repair does, after the cut
    other.restore(learner.snapshot())
    for each in (learner, other):
        each.train(3, [0.05] * 3, lambda: None)
    mine, theirs = learner.snapshot(), other.snapshot()
    for kind in ("tensors", "average", "optimizer"):
        one, another = getattr(mine, kind), getattr(theirs, kind)
        assert one.keys() == another.keys()
        assert same(one.values(), another.values())


def test_training_goes_on_from_the_weights_and_not_from_the_average_of_an_inner_optimizer():
    def train(**average):
        inner = keras.optimizers.SGD(0.05, **average)
        model = cnn(compiled=keras.optimizers.LossScaleOptimizer(inner))
        learner = Learner(model, DATA, DATA, None, default_training(model))
        learner.train(0, [0.05] * 3, lambda: None)
        return state(learner.model)

    assert same(train(use_ema=True), train())


def test_losses_of_every_kind_of_label():
    for loss in ("categorical_crossentropy", "sparse_categorical_crossentropy"):
        model = cnn(compiled=None)
        model.compile("adam", loss)
        learner = Learner(model, DATA, DATA, None, default_training(model))
        value = learner.train(0, [0.001], lambda: None)
        chance = np.asarray(model.predict_on_batch(IMAGES))
        assert value == pytest.approx(-np.log(chance[np.arange(60), LABELS]).mean(), rel=0.2)


def test_every_criterion_can_be_compared():
    network = sec.trace(cnn())

    def planner(scores):
        return sec.plan(network, scores, amount=0.3)

    scores = score_for(network, "auto", planner, data=DATA)
    assert scores.tournament is not None


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(sec.ModelError, match=r"cnn: expected a compiled model.*cnn.compile\("):
        sec.iterate(cnn(compiled=None), DATA, DATA)
    with pytest.raises(sec.DataError, match=r"train: expected images of shape \(8, 8, 1\)"):
        sec.iterate(cnn(), (IMAGES[:, :4], LABELS), DATA)
    with pytest.raises(sec.DataError, match="expected labels of 0 to 2"):
        sec.iterate(cnn(), DATA, (IMAGES, LABELS + 1))
    frozen = cnn()
    frozen.trainable = False
    with pytest.raises(sec.ModelError, match=r"cnn: expected weights that can be trained"):
        sec.iterate(frozen, DATA, DATA)
    i = keras.Input((8, 8, 1))
    boxes = keras.Model(i, L.Conv2D(4, 3)(i), name="boxes")
    with pytest.raises(sec.ModelError, match=r"boxes: expected a model of one input"):
        sec.iterate(boxes, DATA, DATA, training=sec.Training())


def two(activation, loss):
    keras.utils.set_random_seed(0)
    parts = [keras.Input((6,)), keras.layers.Dense(12, "relu", name="a")]
    model = keras.Sequential([*parts, keras.layers.Dense(1, activation, name="head")])
    if loss is not None:
        model.compile(keras.optimizers.Adam(0.02), loss)
    return model


TWO_X = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")
TWO_Y = (TWO_X[:, 0] > 0).astype("int64")


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("column", [False, True])
def test_a_single_output_scores_two_classes(activation, column):
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    model = two(activation, loss)
    labels = TWO_Y[:, None] if column else TWO_Y
    model.fit(TWO_X, TWO_Y[:, None], epochs=15, verbose=0)
    expected = float(model.evaluate(TWO_X, TWO_Y[:, None], verbose=0))
    right = (model.predict(TWO_X, verbose=0)[:, 0] > (0 if activation is None else 0.5)) == TWO_Y
    training = sec.Training(batches=0, fine_tune_batches=8, batch_size=16)
    stop = sec.Stop(rounds=1, tolerance=None)
    data = (TWO_X, labels)
    study = sec.iterate(
        model, data, data, step=0.25, training=training, stop=stop, measure_speed=False
    )
    dense = next(r for r in study.history if "validation_loss" in r)
    assert abs(dense["validation_loss"] - expected) < 1e-5
    assert abs(dense["accuracy"] - right.mean()) < 1e-9
    assert isinstance(study.model.optimizer, keras.optimizers.Adam)
    assert float(study.model.optimizer.learning_rate) == pytest.approx(0.02)


def test_a_single_output_that_scores_no_class_is_refused_without_a_loss():
    stop = sec.Stop(rounds=1, tolerance=None)
    study = sec.iterate(two(None, "mse"), (TWO_X, TWO_Y), (TWO_X, TWO_Y), stop=stop)
    assert study.history.last("dense")["metric"]["name"] == "loss"
    model = two(None, None)
    with pytest.raises(sec.ModelError, match=r"one number.*Dense\(1, activation='sigmoid'\)"):
        sec.iterate(model, (TWO_X, TWO_Y), (TWO_X, TWO_Y), training=sec.Training(batches=1))
