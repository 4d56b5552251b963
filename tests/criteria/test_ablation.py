"""Criteria computed from channels that were removed one at a time."""

from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.criteria import (
    CRITERIA,
    Ablation,
    critical_channels,
)
from secateurs.errors import SecateursError


def ablation(correct, images=(10, 10), loss=None):
    correct = np.array(correct, float)
    return Ablation(
        {"g": np.zeros_like(correct) if loss is None else np.array(loss, float)},
        {"g": correct},
        np.array(images),
        1.0,
        np.array(images),
        {"g": np.full(len(correct), sum(images))},
        {"g": np.zeros(len(correct))},
        {"g": np.zeros(len(correct))},
    )


def test_the_union_of_the_best_of_each_class_stays():
    found = ablation([[-5, 0], [-1, -2], [0, -6], [0, 0], [-2, -1]])
    assert found.critical("g", 1).tolist() == [0, 2]
    assert found.critical("g", 2).tolist() == [0, 1, 2, 4]
    network = SimpleNamespace()
    network.groups = [type("G", (), {"name": "g", "__len__": lambda self: 5})()]
    unchecked = critical_channels.__wrapped__  # of a network that is none
    assert unchecked(network, found, best=1)["g"].tolist() == [1, 3, 4]
    np.testing.assert_allclose(found.accuracy_loss("g")[0], [0.5, 0])
    with pytest.raises(SecateursError, match="at least one"):
        found.critical("g", 0)


def test_a_channel_is_as_critical_as_to_the_class_that_needs_it_most():
    found = ablation([[-5, -3], [-1, -2], [4, 0]], images=(10, 10))
    facts = SimpleNamespace(ablation=found, group=SimpleNamespace(name="g"))
    np.testing.assert_allclose(CRITERIA["critical"].function(facts), [0.5, 0.2, 0])


def test_ties_of_accuracy_are_broken_by_loss_but_never_more_than_ties():
    loss = [[1, 0], [5, 0], [900, 900], [0, 0]]
    found = ablation([[-1, 0], [-1, 0], [0, 0], [0, -1]], loss=loss)
    damage = found.damage("g")
    assert damage[1, 0] > damage[0, 0] > damage[2, 0] > damage[3, 0]
    assert damage[3, 1] > damage[2, 1]
