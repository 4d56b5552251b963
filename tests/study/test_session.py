import torch

from secateurs.study.position import StudyStage
from secateurs.study.session import Session
from secateurs.training.callbacks import Watcher
from support.scripted import Recorded, Scripted


def session():
    return Session(Scripted(lambda round_, done: 0.5), Recorded(), Watcher())


def count_batches(snapshot):
    """Batches of training that a snapshot has been through."""
    return int(snapshot.tensors["4.bias"][0])


def train(found, batches):
    found.learner.train(found.position.batch, [0.1] * batches, lambda: None)
    found.move(batch=found.position.batch + batches, done=found.position.done + batches)


def test_the_best_evaluation_is_restored():
    found = session()
    train(found, 3)
    found.best = found.learner.snapshot()
    found.move(best_batch=3)
    train(found, 2)
    assert count_batches(found.present()) == 5
    found.restore_best()
    assert found.learner.batches_trained == 3
    found.learner.log.clear()
    found.move(batch=3)
    found.restore_best()  # it is there already
    assert found.learner.log == []


def test_a_snapshot_at_hand_is_not_taken_again():
    found = session()
    train(found, 3)
    found.best = found.learner.snapshot()
    found.move(best_batch=3)
    assert found.present() is found.best
    train(found, 1)
    assert found.present() is not found.best
    found.move(stage=StudyStage.CUT)  # the stage has gone back to its best
    assert found.present() is found.best


def test_a_session_resumes_at_the_latest_checkpoint():
    found = session()
    assert not found.resume()
    train(found, 4)
    found.record("train", batch=4)
    found.checkpoint()
    again = session()
    again.store = found.store.back_to(0)
    records = []
    again.watcher.recorded = records.append
    assert again.resume()
    assert again.position == found.position
    assert again.learner.batches_trained == 4
    assert [record["batch"] for record in records] == [4]


def test_the_result_is_the_best_round_or_the_dense_model():
    found = session()
    found.keep("dense")
    train(found, 2)
    found.keep("best")
    assert count_batches(found.fetch_result()) == 0
    found.move(result_round=1)
    assert count_batches(found.fetch_result()) == 2
    assert found.fetch("best").optimizer == {}


def test_time_is_told_since_it_was_last_asked(monkeypatch):
    clock = iter([10.0, 12.5, 13.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    found = session()
    assert (found.seconds_since_last(), found.seconds_since_last()) == (2.5, 0.5)


def test_an_evaluation_is_a_stage_of_its_own_for_who_watches():
    found = session()
    stages = []
    found.watcher.begin = lambda stage, batches, done=0: stages.append((stage, batches))
    assert found.evaluate("validation").accuracy == 0.5
    assert stages == [("evaluating on the validation data", 1)]
    assert torch.equal(found.learner.model[0].weight, found.learner.origin[0].weight)
