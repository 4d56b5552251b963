import keras
import numpy as np
import pytest
from torch import nn

from secateurs.errors import ModelError, UnknownNameError
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


def test_a_keras_model_takes_no_task():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match=r"Sequential: expected no task=.*model.compile"):
        learner_of(model, SOURCES, Training(), LearningTask())


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
