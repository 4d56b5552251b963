"""Silencing channels while ``fit`` runs, and progress in Keras's style."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras import Progress, PruneOnSchedule
from secateurs.keras.training.callbacks import Silent

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((24, 8, 8, 3)).astype("float32")
Y = RANDOM.integers(0, 3, 24)


def cnn(optimizer="adam"):
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, activation="relu", name="a", kernel_constraint="non_neg")(i)
    x = L.BatchNormalization(name="bn")(L.Conv2D(8, 3, name="b", kernel_constraint="max_norm")(x))
    x = L.Dense(10, activation="relu", name="c")(L.Flatten()(L.ReLU()(x)))
    model = keras.Model(i, L.Dense(3, name="head")(x), name="cnn")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def predict(model):
    return np.asarray(keras.ops.convert_to_numpy(model(X, training=False)))


def test_the_cut_model_gives_the_outputs_of_the_silenced_one():
    model = cnn(keras.optimizers.AdamW(0.01))
    callback = PruneOnSchedule({1: 0.2, 3: 0.4})
    history = model.fit(X, Y, epochs=4, batch_size=8, verbose=0, callbacks=[callback])
    assert len(history.history["loss"]) == 4
    small = callback.pruned(X[:2])
    assert sec.report_of(small).proof.holds
    removed = sum(len(c.removed) for c in callback.cut.channels.values())
    assert removed == round(0.4 * 24)
    # Adam would have moved the weights at zero, had nothing held them there.
    assert np.allclose(predict(small), predict(model), atol=1e-4 * np.abs(predict(model)).max())
    assert small.compiled
    assert int(small.optimizer.iterations) == 12
    assert isinstance(model.get_layer("b").kernel.constraint, keras.constraints.MaxNorm)


def test_silent_channels_stay_silent():
    """Silent channels stay silent even if the others are ranked in reverse order later."""
    model, sign, cuts = cnn(), [1], []
    callback = PruneOnSchedule({1: 0.2, 2: 0.4}, lambda facts: sign[0] * np.arange(len(facts)))

    class Watching(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            cuts.append({name: set(c.removed) for name, c in callback.cut.channels.items()})
            sign[0] = -1

    model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback, Watching()])
    assert cuts[0]["c"] == {0, 1}
    assert cuts[1]["c"] == {0, 1, 8, 9}
    assert all(first <= cuts[1][name] for name, first in cuts[0].items())


def test_a_users_constraint_is_applied_as_well():
    held = Silent(np.array([1.0, 0.0, 1.0]), keras.constraints.NonNeg())
    weight = keras.ops.convert_to_tensor([-1.0, 2.0, 3.0])
    assert keras.ops.convert_to_numpy(held(weight)).tolist() == [0, 0, 3]


def test_groups_read_by_more_than_weights_are_skipped():
    i = keras.Input((6,))
    x = L.LayerNormalization(name="ln")(L.Dense(8, name="a")(i))
    x = L.Dense(8, name="b", activation="relu")(x)
    model = keras.Model(i, L.Dense(1, name="head")(x))
    model.compile("sgd", "mse")
    callback = PruneOnSchedule({1: 0.25})
    model.fit(X[:, 0, 0, [0, 1, 2, 0, 1, 2]], Y, epochs=1, verbose=0, callbacks=[callback])
    assert callback.skipped == ["a"]
    assert set(callback.cut.channels) == {"b"}
    assert sec.report_of(callback.prune()).proof.holds


def test_invalid_schedules_are_refused():
    for schedule in ({}, {1: 0.3, 2: 0.2}, {1: 1.0}, {1: 0.0}):
        with pytest.raises(sec.SecateursError, match="PruneOnSchedule: expected shares"):
            PruneOnSchedule(schedule)
    with pytest.raises(sec.SecateursError, match="Fit it for at least 3 epochs"):
        PruneOnSchedule({3: 0.5}).prune()


def test_progress_looks_like_keras(capsys):
    training = sec.Training(batches=2, batch_size=12, learning_rate=0.01)
    sec.iterate(
        cnn(),
        (X, Y),
        (X, Y),
        step=0.3,
        training=training,
        stop=sec.Stop(rounds=1, tolerance=None),
        measure_speed=False,
        watcher=Progress(),
    )
    output = capsys.readouterr().out
    assert "Round 1\n" in output
    assert "2/2" in output
    assert "prune - round: 1 - " in output


class MadeUp(keras.callbacks.Callback):
    """A monitored quantity that is best after a given epoch."""

    def __init__(self, best):
        super().__init__()
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        logs["made_up"] = abs(epoch - self.best)


@pytest.mark.parametrize("best", [0, 1])
def test_restored_weights_of_silent_channels_are_refused(best):
    stop = keras.callbacks.EarlyStopping(
        "made_up", mode="min", patience=9, restore_best_weights=True
    )
    callback, model = PruneOnSchedule({1: 0.2, 3: 0.4}), cnn()
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[MadeUp(best), stop, callback])
    with pytest.raises(sec.CutError, match=r"weights are not.*EarlyStopping.*callback.cut"):
        callback.pruned(X[:2])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras cannot go on with it on JAX")
def test_averages_of_weights_are_silent_too():
    callback, model = PruneOnSchedule({1: 0.2, 2: 0.4}), cnn(keras.optimizers.Adam(use_ema=True))
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
    small = callback.pruned(X[:2])
    assert np.allclose(predict(small), predict(model), atol=1e-4 * np.abs(predict(model)).max())


def test_silent_channels_are_printed_and_logged(capsys):
    callback, model = PruneOnSchedule({1: 0.25, 3: 0.5}), cnn()
    history = model.fit(X, Y, epochs=3, verbose=2, callbacks=[callback])
    assert history.history["silent_channels"] == [0.25, 0.25, 0.5]
    output = capsys.readouterr().out
    assert "PruneOnSchedule: 6 of 24 channels are silent" in output
    assert f"of {model.count_params() - 16:,} parameters stay" in output


class _Dies(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def _list_removed(callback):
    return {name: c.removed for name, c in callback.cut.channels.items() if c.removed}


def _fit(callbacks, **options):
    keras.utils.set_random_seed(0)
    model = cnn(keras.optimizers.SGD(0.01, momentum=0.9))
    model.fit(X, Y, epochs=5, shuffle=False, verbose=0, callbacks=callbacks, **options)
    return model


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras cannot go on with it on JAX")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_fit_resumed_from_a_backup_equals_an_uninterrupted_one(epoch, first, tmp_path):
    whole = PruneOnSchedule({1: 0.2, 3: 0.4})
    expected = _fit([whole])

    def callbacks():
        callback = PruneOnSchedule({1: 0.2, 3: 0.4})
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return callback, [callback, backup] if first else [backup, callback]

    _, both = callbacks()
    with pytest.raises(KeyboardInterrupt):
        _fit([*both, _Dies(epoch)])
    callback, both = callbacks()
    model = _fit(both)
    assert _list_removed(callback) == _list_removed(whole)
    np.testing.assert_allclose(predict(model), predict(expected), rtol=1e-3, atol=1e-5)
    small = callback.prune(X[:2])
    np.testing.assert_allclose(
        predict(small), predict(model), atol=1e-4 * np.abs(predict(model)).max()
    )


def test_a_second_fit_with_the_callback_keeps_channels_silent():
    model = cnn(keras.optimizers.Adam(0.01))
    callback = PruneOnSchedule({1: 0.2, 3: 0.4})
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback])
    first = _list_removed(callback)
    model.fit(X, Y, epochs=4, initial_epoch=2, verbose=0, callbacks=[callback])
    assert all(set(first[name]) <= set(gone) for name, gone in _list_removed(callback).items())
    assert sum(map(len, _list_removed(callback).values())) == round(0.4 * 24)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback])  # from the first epoch again
    assert sum(map(len, _list_removed(callback).values())) == round(0.4 * 24)
    small = callback.prune(X[:2])
    np.testing.assert_allclose(
        predict(small), predict(model), atol=1e-4 * np.abs(predict(model)).max()
    )


def test_a_fit_from_a_later_epoch_silences_what_is_due_by_then():
    callback = PruneOnSchedule({1: 0.2, 3: 0.4})
    _fit([callback], initial_epoch=4)
    assert sum(map(len, _list_removed(callback).values())) == round(0.4 * 24)
