import keras
import numpy as np
import pytest
from torch import nn

from secateurs.errors import UnknownNameError
from secateurs.keras.training.task_learner import TaskLearner as KerasTaskLearner
from secateurs.pytorch.training.learner import Learner
from secateurs.pytorch.training.task_learner import TaskLearner
from secateurs.settings.study import Task
from secateurs.settings.training import Training
from secateurs.study.learning import learner_of, learning_named, learning_of
from secateurs.study.sources import Sources
from secateurs.training.task import LearningTask

PAIR = (np.zeros((8, 3), np.float32), np.arange(8) % 2)
SOURCES = Sources(PAIR, PAIR)


def test_images_are_classified_unless_a_task_says_otherwise():
    model = nn.Linear(3, 2)
    assert type(learner_of(model, SOURCES, Training())) is Learner
    task = LearningTask("mine", loss=nn.CrossEntropyLoss(reduction="none"))
    found = learner_of(model, SOURCES, Training(), task)
    assert isinstance(found, TaskLearner)
    assert found.metric.name == "loss"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_keras_model_has_the_same_tasks_and_what_it_was_compiled_with():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    found = learner_of(model, SOURCES, Training(), learning_of(model, "classification"))
    assert isinstance(found, KerasTaskLearner)
    assert learning_of(model, None) is None
    assert learning_of(model, "regression").described_metric.name == "mean squared error"
    model.compile("sgd", "mse", metrics=["mae"])
    task = learning_of(model, None, metric="mse")
    assert (task.name, task.described_metric.name) == ("compiled", "mean squared error")
    assert task.loss(np.ones((2, 2)), np.zeros((2, 2))).tolist() == [1.0, 1.0]


def test_tasks_by_name_and_by_parts():
    model = nn.Linear(3, 2)
    assert learning_of(model, None) is None
    assert learning_of(model, "regression").described_metric.name == "mean squared error"
    assert learning_of(model, None, loss=len).loss is len
    with pytest.raises(UnknownNameError, match="did you mean 'regression'"):
        learning_of(model, "regresion")


def test_a_studys_settings_name_its_task():
    model = nn.Linear(3, 2)
    assert learning_named(model, Task()) is None
    assert learning_named(model, Task(learning="segmentation")).name == "segmentation"
    found = learning_named(model, Task(metric="f1"))
    assert (found.name, found.metric) == ("classification", "f1")
