"""Comparisons of Keras models run like those of PyTorch models, through the learner."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs import data
from secateurs.comparison import (
    Comparison,
    JobRunner,
    SerialExecutor,
    learner_factory,
    run_comparison,
)
from secateurs.errors import ModelError, UnknownNameError
from secateurs.settings.study import Task
from secateurs.settings.training import Training

TASK = {"data": "digits", "data_options": {"limit": 200, "seed": 0}, "by_name": True}


def save_model(place):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(6, 3, activation="relu", name="conv1"),
            # Its averages are never zero, whatever random weights the backend draws.
            L.Conv2D(
                8,
                3,
                activation="relu",
                bias_initializer=keras.initializers.Constant(9),
                name="conv2",
            ),
            L.GlobalAveragePooling2D(name="pool"),
            L.Dense(10, activation="softmax", name="head"),
        ],
        name="cnn",
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = place / "mine.keras"
    model.save(path)
    return model, path


def test_a_keras_file_is_compared(tmp_path):
    model, path = save_model(tmp_path)
    comparison = Comparison(
        task=Task(model=str(path), **TASK),
        training=Training(
            optimizer="compiled", fine_tune_batches=3, batch_size=32, learning_rate=0.01
        ),
        strategies=("l1", "apoz"),
        amounts=(0.4,),
        seeds=1,
    )
    crew = SerialExecutor(JobRunner(comparison, learner_factory(comparison)))
    results = run_comparison(comparison, tmp_path / "c", crew)
    assert [one.failure for one in results.outcomes] == ["", ""]
    assert results.outcomes[1].caution.startswith("apoz counts values that are exactly zero")
    assert "What may mean little here" in (tmp_path / "c" / "compare.html").read_text()
    split = data.load("digits", limit=200, seed=0).validation
    images, labels = split.batch(slice(None))
    images = images.transpose(0, 2, 3, 1)
    right = (np.asarray(model.predict(images, verbose=0)).argmax(1) == labels).mean()
    assert results.denses[0].accuracy == pytest.approx(right)
    small = sec.prune(model, None, sec.Budget(params=0.6), criterion="l1").model
    right = (np.asarray(small.predict(images, verbose=0)).argmax(1) == labels).mean()
    assert results.outcomes[0].params == small.count_params()
    assert results.outcomes[0].before == pytest.approx(right)


def test_a_keras_file_that_cannot_be_loaded_is_refused(tmp_path):
    def build_comparison(name, **options):
        comparison = Comparison(task=Task(model=name, model_options=options, **TASK))
        return learner_factory(comparison)(0)

    with pytest.raises(UnknownNameError, match=r"nowhere\.keras: no such file"):
        build_comparison("nowhere.keras")
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be read as a Keras model"):
        build_comparison(str(broken))
    with pytest.raises(ModelError, match=r"expected no options of the model.*width"):
        build_comparison(str(save_model(tmp_path)[1]), width=4)
