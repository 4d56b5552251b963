"""Keras models in the loop for any task: by name, by functions, and as compiled."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from support.keras_networks import DATA, IMAGES, LABELS, cnn

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 8)).astype("float32")
Y = (X @ RANDOM.normal(size=(8, 3))).astype("float32")
STOP = sec.Stop(rounds=1, tolerance=None)


def regressor(*, compiled=True):
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    model = keras.Model(x, L.Dense(3, name="y")(L.Dense(16, "relu", name="hidden")(x)))
    if compiled:
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def study(model, data=(X, Y), **options):
    return sec.iterate(model, data, data, step=0.25, stop=STOP, measure_speed=False, **options)


def test_a_compiled_model_is_evaluated_by_its_own_metric_and_trained_by_its_own_loss():
    model = regressor()
    model.fit(X, Y, epochs=3, verbose=0)
    found = study(model, test=(X, Y))
    settings = found.history.last("stop")
    assert found.history.last("dense")["metric"]["name"] == "mean absolute error"
    assert settings["test_value"] == pytest.approx(
        np.abs(found.model.predict(X, verbose=0) - Y).mean()
    )
    assert found.model.evaluate(X, Y, verbose=0)[1] == pytest.approx(
        settings["test_value"], rel=1e-5
    )
    assert found.model.get_layer("hidden").units < 16


def test_a_built_in_task_trains_like_the_same_compiled_loss():
    """One step of the loop equals one step of ``fit`` on the same batch."""
    by_hand = regressor()
    by_hand.fit(X, Y, epochs=1, batch_size=64, verbose=0)
    for task in ("regression", None):
        model = regressor()
        learner = sec.study.learning.learner_of(
            model,
            sec.study.sources.Sources((X, Y), (X, Y)),
            sec.keras.default_training(model).model_copy(update={"batch_size": 64}),
            sec.study.learning.learning_of(model, task, metric="mse"),
        )
        loss = learner.train(0, [0.01], lambda: None)
        assert loss == pytest.approx(np.square(model.predict(X, verbose=0) - Y).mean(), rel=1e-4)
        for mine, theirs in zip(learner.model.get_weights(), by_hand.get_weights(), strict=True):
            assert np.allclose(mine, theirs, atol=1e-5)


def test_a_users_loss_and_metric_with_the_models_penalties():
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    hidden = L.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(0.1))(x)
    model = keras.Model(x, L.Dense(3)(hidden))

    def loss(outputs, targets):
        return keras.ops.mean(keras.ops.abs(outputs - targets), axis=-1)

    def nearness(outputs, targets):
        return -np.abs(outputs - targets).mean(axis=-1)

    learner = sec.study.learning.learner_of(
        model,
        sec.study.sources.Sources((X, Y), (X, Y)),
        sec.Training(batch_size=64, learning_rate=0.01),
        sec.LearningTask("mine", loss=loss, metric=nearness),
    )
    apart = np.abs(model.predict(X, verbose=0) - Y).mean()
    penalty = 0.1 * np.square(model.get_weights()[0]).sum()
    judged = learner.evaluate("validation", lambda: None)
    assert judged.accuracy == pytest.approx(-apart, rel=1e-5)
    assert judged.loss == pytest.approx(apart, rel=1e-5)
    assert learner.train(0, [0.01], lambda: None) == pytest.approx(apart + penalty, rel=1e-4)
    assert "compute_loss" not in vars(learner.release())


def test_a_users_trainer_and_evaluation():
    calls = []

    def fit(model, steps):
        calls.append(steps)
        model.fit(X, Y, epochs=1, verbose=0)

    def evaluate(model):
        return model.evaluate(X, Y, verbose=0)[0]

    task = sec.LearningTask("mine", fit=fit, evaluate=evaluate, higher_is_better=False)
    found = study(regressor(), task=task)
    assert calls  # the compiled model is already trained: one round
    judged = found.model.evaluate(X, Y, verbose=0)[0]
    assert judged == pytest.approx(found.history.last("stop")["value"], rel=1e-5)


def scores(channels, *shape):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    return keras.Model(x, L.Conv2D(channels, 1)(L.Conv2D(8, 3, padding="same")(x)))


def language():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, L.Dense(11)(L.Dense(16, "relu")(L.Embedding(11, 8)(x))))


TOKENS = RANDOM.integers(0, 11, (32, 6))
MASKS = RANDOM.integers(0, 4, (16, 8, 8))
MASKS[0, :4] = 255
MAPS = RANDOM.normal(size=(16, 8, 8, 3)).astype("float32")
HIDDEN = np.where(RANDOM.random(TOKENS.shape) < 0.3, TOKENS, -100)
READY = {
    "segmentation": (lambda: scores(4), (MAPS, MASKS)),
    "language-modelling": (language, TOKENS),
    "masked-language-modelling": (language, (TOKENS, HIDDEN)),
    "regression": (lambda: regressor(compiled=False), (X, Y)),
    "embedding": (lambda: regressor(compiled=False), (X, np.arange(64) % 4)),
    "classification": (lambda: regressor(compiled=False), (X, np.arange(64) % 3)),
}


@pytest.mark.parametrize("task", READY)
def test_every_built_in_task_runs_through_the_loop(task):
    build, data = READY[task]
    training = sec.Training(batches=3, fine_tune_batches=3, batch_size=16, learning_rate=0.02)
    found = study(build(), data, task=task, training=training)
    settings = found.history.last("stop")
    assert np.isfinite(settings.get("value", settings.get("accuracy")))
    assert found.report.params_removed > 0


def test_a_batch_may_hold_several_inputs_and_targets_by_name():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    hidden = L.Dense(16, "relu")(L.Concatenate()([a, b]))
    outputs = [L.Dense(3, name="p")(hidden), L.Dense(1, name="q")(hidden)]
    model = keras.Model({"a": a, "b": b}, outputs)
    losses, weights = {"p": "mse", "q": "mae"}, {"p": 1.0, "q": 0.5}
    model.compile("adam", losses, loss_weights=weights)
    inputs, targets = {"a": X, "b": X}, {"p": Y, "q": Y[:, :1]}
    found = study(model, [(inputs, targets)])
    p, q = found.model.predict(inputs, verbose=0)
    expected = np.square(p - Y).mean() + 0.5 * np.abs(q - Y[:, :1]).mean()
    assert found.history.last("stop")["value"] == pytest.approx(expected, rel=1e-4)
    whole = study(model, (inputs, (Y, Y[:, :1])))
    assert np.isfinite(whole.history.last("stop")["value"])


def step(model, batch):
    x, y = batch
    return keras.ops.mean(keras.ops.abs(model(x) - y), axis=-1)


def learner(model, data=(X, Y), **options):
    training = sec.Training(batch_size=64, learning_rate=0.01)
    training = options.pop("training", training)
    task = sec.LearningTask("mine", **options)
    return sec.study.learning.learner_of(
        model, sec.study.sources.Sources(data, data), training, task
    )


def test_a_users_step_trains_like_the_same_loss():
    def loss(outputs, targets):
        return keras.ops.mean(keras.ops.abs(outputs - targets), axis=-1)

    def predict(model, batch):
        return model(batch[0]), batch[1]

    weights = []
    for parts in ({"loss": loss}, {"train_step": step}, {"predict": predict, "loss": loss}):
        made = learner(regressor(compiled=False), metric="mae", **parts)
        losses = [made.train(first, [0.01, 0.02], lambda: None) for first in (0, 2)]
        made.apply(made.trace().cut({"hidden": [1, 5]}))
        losses.append(made.train(4, [0.01], lambda: None))
        weights.append(
            (
                losses,
                made.model.get_weights(),
                made.evaluate("validation", lambda: None),
            )
        )
    for losses, values, judged in weights[1:]:
        assert losses == pytest.approx(weights[0][0], rel=1e-5)
        assert judged.accuracy == pytest.approx(weights[0][2].accuracy, rel=1e-5)
        for mine, theirs in zip(values, weights[0][1], strict=True):
            assert mine.shape == theirs.shape
            assert np.allclose(mine, theirs, atol=1e-5)


def test_dropout_and_normalisation_are_active_in_a_step_and_inactive_in_evaluation():
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    hidden = L.BatchNormalization(name="norm")(L.Dense(16, "relu", name="hidden")(x))
    model = keras.Model(x, L.Dense(3)(L.Dropout(0.5)(hidden)))
    made = learner(model, train_step=step)
    judged = [made.evaluate("validation", lambda: None).loss for _ in range(2)]
    assert judged[0] == judged[1]
    assert judged[0] == pytest.approx(np.abs(model.predict(X, verbose=0) - Y).mean(), rel=1e-5)
    assert not np.any(made.model.get_layer("norm").moving_mean.numpy())
    losses = [made.train(0, [1e-9], lambda: None), made.train(1, [1e-9], lambda: None)]
    assert losses[0] != pytest.approx(judged[0], rel=1e-3)
    assert np.any(keras.ops.convert_to_numpy(made.model.get_layer("norm").moving_mean))


def test_a_study_with_a_users_step_is_evaluated_by_its_loss_by_default():
    training = sec.Training(batches=4, fine_tune_batches=4, batch_size=32, learning_rate=0.01)
    found = study(regressor(compiled=False), train_step=step, training=training)
    ending = found.history.last("stop")
    expected = np.abs(found.model.predict(X, verbose=0) - Y).mean()
    assert ending["value"] == pytest.approx(expected, rel=1e-5)
    assert found.history.last("dense")["metric"]["name"] == "loss"


class Boxes(keras.Model):
    """Finds one box per image, and trains on its own loss."""

    def __init__(self):
        super().__init__()
        self.hidden = L.Conv2D(8, 3, activation="relu")
        self.pool = L.GlobalAveragePooling2D()
        self.corners, self.score = L.Dense(4), L.Dense(1)

    def call(self, image):
        x = self.pool(self.hidden(image))
        return {"boxes": self.corners(x), "scores": self.score(x)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        apart = keras.ops.mean(keras.ops.abs(y_pred["boxes"] - y["boxes"]))
        there = keras.losses.binary_crossentropy(y["there"], y_pred["scores"], from_logits=True)
        return apart + keras.ops.mean(there)


PICTURES = RANDOM.normal(size=(12, 8, 8, 3)).astype("float32")
FOUND = {
    "boxes": RANDOM.random((12, 4)).astype("float32"),
    "there": (RANDOM.random((12, 1)) > 0.5).astype("float32"),
}


def boxes():
    keras.utils.set_random_seed(0)
    model = Boxes()
    model(PICTURES[:1])
    return model


def loss_by_hand(model):
    given = model(PICTURES)
    apart, scores = (keras.ops.convert_to_numpy(given[name]) for name in ("boxes", "scores"))
    there = np.logaddexp(0, scores) - scores * FOUND["there"]
    return np.abs(apart - FOUND["boxes"]).mean() + there.mean()


@pytest.mark.parametrize("task", ["detection", None])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_detector_with_a_loss_of_its_own_class(task, compiled):
    model = boxes()
    training = {"training": sec.Training(batches=3, fine_tune_batches=3, batch_size=6)}
    if compiled:
        model.compile(keras.optimizers.Adam(0.01))
        training = {}
    metric = {"metric": overlap} if task else {}
    found = study(model, (PICTURES, FOUND), task=task, **metric, **training)
    ending = found.history.last("stop")
    value = overlap([*map(keras.ops.convert_to_numpy, keras.tree.flatten(found.model(PICTURES)))],
                    FOUND).mean() if task else loss_by_hand(found.model)  # fmt: skip
    assert ending["value"] == pytest.approx(value, rel=1e-4)
    assert type(found.model) is Boxes
    assert found.model.hidden.filters == 6


def overlap(outputs, targets):
    return -np.abs(outputs[0] - targets["boxes"]).mean(axis=-1)


def test_batches_by_name_give_a_step_all_and_the_model_its_inputs():
    seen = []

    def by_name(model, batch):
        seen.append(sorted(batch))
        given = model(batch["image"])
        return keras.ops.mean(keras.ops.abs(given["boxes"] - batch["boxes"]))

    batches = [{"image": PICTURES[:6], **{name: one[:6] for name, one in FOUND.items()}}]
    x = keras.Input((8, 8, 3), name="image")
    hidden = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu", name="hidden")(x))
    model = keras.Model(x, {"boxes": L.Dense(4, name="boxes")(hidden)})
    training = sec.Training(batches=2, fine_tune_batches=2)
    found = study(model, batches, train_step=by_name, training=training)
    assert seen[0] == ["boxes", "image", "there"]
    given = keras.ops.convert_to_numpy(found.model(PICTURES[:6])["boxes"])
    expected = np.abs(given - FOUND["boxes"][:6]).mean()
    assert found.history.last("stop")["value"] == pytest.approx(expected, rel=1e-4)


def test_a_functional_class_whose_training_step_a_cut_would_lose_is_refused():
    class Own(keras.Model):
        def train_step(self, *given):
            return super().train_step(*given)

    class Made(keras.Model):
        def __init__(self, width):
            x = keras.Input((8,))
            super().__init__(x, L.Dense(3)(L.Dense(width, "relu")(x)))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.abs(y_pred - y))

    with pytest.raises(sec.ModelError, match="own"):
        study(Made(16), training=sec.Training(batches=1))
    x = keras.Input((8,))
    model = Own(x, L.Dense(3)(L.Dense(16, "relu")(x)))
    with pytest.raises(sec.ModelError, match="own class's training step; that raised ValueError"):
        study(model, training=sec.Training(batches=1))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_task_is_distilled_in_the_loop(compiled):
    """The loss is the distance alone: the small model gets closer, whatever the targets are."""
    model = regressor(compiled=compiled)
    wrong = np.zeros_like(Y)
    apart = []
    for share in (1.0, 0.0):
        training = {"learning_rate": 0.02, "batch_size": 32, "fine_tune_batches": 200}
        training |= {} if compiled else {"optimizer": "adamw"}
        found = study(
            model, (X, wrong), task=None if compiled else "regression",
            training=sec.Training(batches=0, distillation=share, **training), repair=False,
        )  # fmt: skip
        small, dense = (one.predict(X, verbose=0) for one in (found.model, model))
        apart.append(np.square(small - dense).mean() / np.square(dense).mean())
    assert apart[0] < 0.3, apart
    assert apart[1] > 0.9, apart


def test_another_metric_of_a_classifier():
    training = sec.Training(batches=3, fine_tune_batches=3, batch_size=20)
    found = study(cnn(compiled=None), DATA, metric="f1", training=training)
    assert found.history.last("dense")["metric"]["name"] == "F1"
    metric = keras.metrics.SparseCategoricalAccuracy()
    found = study(cnn(), DATA, task="classification", metric=metric)
    wanted = (found.model.predict(IMAGES, verbose=0).argmax(1) == LABELS).mean()
    assert found.history.last("stop")["value"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "detection", "loss": None}, "expected a PyTorch model, or a Keras one whose"),
        ({"train_step": lambda m, b: 1, "metric": "mse"}, "expected a train_step that returns the"),
        ({"train_step": step, "training": sec.Training(distillation=0.5)}, "distillation of 0"),
        ({"task": "regresion"}, "did you mean 'regression'"),
        ({"metric": "map"}, "counts boxes"),
        ({"task": sec.LearningTask(evaluate=lambda model: "x", loss=lambda o, t: o[:, 0])},
         "expected a number for the model; received str"),
        ({"loss": lambda o, t: o}, "expected loss.outputs, targets. to return one loss"),
    ],
)  # fmt: skip
def test_impossible_tasks_are_refused_in_one_line(options, message):
    with pytest.raises(sec.SecateursError, match=message) as raised:
        study(regressor(), **options)
    assert "\n" not in str(raised.value)


def test_an_uncompiled_model_without_a_loss_is_refused_with_the_remedy():
    training = sec.Training(batches=1)
    with pytest.raises(sec.ModelError, match=r"expected a loss to train by\. Compile the model"):
        study(regressor(compiled=False), metric="mse", training=training)
    with pytest.raises(sec.DataError, match=r"expected 1 inputs \(x\).*received 2"):
        study(regressor(), [((X, X), Y)], task="regression")


def test_criteria_sensitivity_ablation_comparison_and_drop_take_the_task(tmp_path):
    model = regressor()
    model.fit(X, Y, epochs=2, verbose=0)
    network = sec.trace(model)
    by_task = sec.score(network, "taylor", data=(X, Y), task="regression")["hidden"]
    loss = lambda o, t: keras.ops.mean(keras.ops.square(o - t), axis=-1)  # noqa: E731
    assert np.allclose(by_task, sec.score(network, "taylor", data=(X, Y), loss=loss)["hidden"])
    assert np.allclose(by_task, sec.score(network, "taylor", data=(X, Y))["hidden"])  # compiled
    curves = sec.sensitivity(network, (X, Y), task="regression", metric="mae", amounts=0.5)
    dense = np.abs(model.predict(X, verbose=0) - Y).mean()
    assert curves.accuracies["hidden"][0] == pytest.approx(dense, rel=1e-4)
    ablated = sec.ablate(network, (X, Y), task="regression")
    alone = sec.apply(model, network.cut({"hidden": [3]}))
    apart = np.square(alone.predict(X, verbose=0) - Y).mean()
    change = apart - np.square(model.predict(X, verbose=0) - Y).mean()
    assert ablated.estimate["hidden"][3] == pytest.approx(change, abs=1e-3)
    found = sec.compare(
        model, (X, Y), (X, Y), strategies="l1", amounts=0.25, seeds=1, directory=tmp_path,
        training=sec.Training(batches=2),
    )  # fmt: skip
    assert found.metric.name == "mean absolute error"
    pruned = sec.prune(
        model, None, "drop=0.05", calibration=X, validation=(X, Y), task="regression", metric="mae"
    ).model
    assert np.abs(pruned.predict(X, verbose=0) - Y).mean() <= dense + 0.05 + 1e-6
