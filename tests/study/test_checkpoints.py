from secateurs.channels.cut import Cut
from secateurs.study.checkpoints import InMemoryStore
from secateurs.study.position import Position
from secateurs.training.learner import Snapshot


def test_models_are_kept_by_name_and_nothing_outlives_the_process():
    store = InMemoryStore()
    first, second = Snapshot({"a": 1}, Cut()), Snapshot({"a": 2}, Cut())
    store.keep("dense", first)
    store.keep("best", first)
    store.keep("best", second)
    assert store.fetch("dense") is first
    assert store.fetch("best") is second
    store.keep_cut(1, Cut())

    def present():
        raise AssertionError("copied for nothing")

    store.checkpoint(Position(), present, None)
    assert store.resume() is None
    assert len(store.history) == 0
    store.history.append("train", batch=1)
    assert store.history.last("train")["batch"] == 1
