import numpy as np
import pytest

from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training
from secateurs.study.position import StudyStage
from secateurs.study.session import Session
from secateurs.study.stage_trainer import DivergedError, StageTrainer
from secateurs.study.training_schedule import TrainingSchedule
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import Evaluation
from support.scripted import Recorded, Scripted


def trainer(accuracy, learner=None, every=5, batches=20, **pruning):
    learner = learner or Scripted(accuracy)
    session = Session(learner, Recorded(), Watcher())
    training = Training(batches=batches, fine_tune_batches=6, evaluate_every=every)
    return session, StageTrainer(session, TrainingSchedule(training, Pruning(**pruning), 10))


def list_stages(learner):
    return [(entry[1], len(entry[2])) for entry in learner.log if entry[0] == "train"]


def test_a_stage_is_trained_from_evaluation_to_evaluation_and_its_best_kept():
    accuracies = {5: 0.4, 10: 0.7, 12: 0.6}
    session, stage = trainer(lambda round_, done: accuracies[done])
    stage.train("dense", np.full(12, 0.1))
    assert list_stages(session.learner) == [(0, 5), (5, 5), (10, 2)]
    assert session.store.history.of("train")[:, ("batch", "accuracy")] == [
        (5, 0.4),
        (10, 0.7),
        (12, 0.6),
    ]
    assert (session.position.best, session.position.best_batch) == (0.7, 10)
    assert int(session.best.tensors["4.bias"][0]) == 10
    assert len(session.store.checkpoints) == 2  # the stage's own end is the loop's to keep


def test_it_goes_on_from_the_middle_and_evaluates_at_the_same_batches():
    session, stage = trainer(lambda round_, done: 0.5)
    session.move(done=7, batch=107)
    stage.train("a round", np.full(12, 0.1))
    assert list_stages(session.learner) == [(107, 3), (110, 2)]


def test_a_goal_ends_it_early():
    session, stage = trainer(lambda round_, done: done / 20)
    stage.train("a round", np.full(20, 0.1), goal=0.5)
    assert session.position.done == 10


def test_of_equal_accuracies_the_surest_is_kept():
    learner = Scripted(None)
    losses = iter([0.5, 0.3, 0.4])
    learner.evaluate = lambda part, tick, averaged=False: Evaluation(0.9, next(losses))
    session, stage = trainer(None, learner)
    stage.train("dense", np.full(15, 0.1))
    assert session.position.best_batch == 10


def test_the_point_to_rewind_to_is_kept_on_the_way():
    session, stage = trainer(lambda round_, done: 0.5, rewind="weights")
    stage.train("dense", np.full(20, 0.1))  # 20 - 6: between two evaluations
    assert list_stages(session.learner) == [(0, 5), (5, 5), (10, 4), (14, 1), (15, 5)]
    assert int(session.store.fetch("rewind").tensors["4.bias"][0]) == 14
    session, stage = trainer(lambda round_, done: 0.5, rewind="weights")
    session.move(stage=StudyStage.FINE_TUNE)
    stage.train("a round", np.full(20, 0.1))  # a round has none of its own
    assert list_stages(session.learner) == [(0, 5), (5, 5), (10, 5), (15, 5)]


def test_training_without_improvement_is_reported():
    learner = Scripted(lambda round_, done: 0.5)
    learner.train = lambda first, rates, tick: float("nan")
    session, stage = trainer(None, learner)
    with pytest.raises(DivergedError, match=r"5 batches before batch 5 is nan.*\(it was 0\.2\)"):
        stage.train("dense", np.linspace(0.1, 0.2, 5))
    learner = Scripted(None)
    learner.evaluate = lambda part, tick, averaged=False: Evaluation(0.5, float("inf"))
    session, stage = trainer(None, learner)
    with pytest.raises(DivergedError, match="validation loss at batch 5 is inf"):
        stage.train("dense", np.full(5, 0.1))
    assert len(session.store.history) == 0
