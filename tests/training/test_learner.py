from secateurs.channels.cut import Cut
from secateurs.training.learner import Snapshot


def test_without_its_optimizer_a_snapshot_is_the_models_values_alone():
    whole = Snapshot({"a": 1}, Cut(), {"momentum": 2}, {"rate": 0.1})
    alone = whole.without_optimizer()
    assert (alone.tensors, alone.cut) == ({"a": 1}, Cut())
    assert (alone.optimizer, alone.settings) == ({}, None)
    assert whole.optimizer == {"momentum": 2}
