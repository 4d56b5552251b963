"""The battery for criteria: ours pass it, and it finds errors in others."""

import itertools

import numpy as np
import pytest

from secateurs.criteria import CRITERIA
from secateurs.errors import SecateursError
from secateurs.testing import CriterionBattery
from secateurs.testing.networks import NETWORKS

for _name in CRITERIA:
    globals()[f"Test_{_name}"] = type(
        f"Test_{_name}",
        (CriterionBattery,),
        {
            "criterion": _name,
            "stochastic": _name == "random",
            "networks": ("plain",) if _name == "bn_scale" else tuple(NETWORKS),
        },
    )


def failures(criterion, tests):
    """Which of these tests of the battery a criterion fails."""

    class Battery(CriterionBattery):
        networks = ("plain",)

    Battery.criterion = criterion if isinstance(criterion, str) else staticmethod(criterion)
    battery, failed = Battery(), []
    for test in tests:
        try:
            getattr(battery, f"test_{test}")()
        except (AssertionError, SecateursError):
            failed.append(test)
    return failed


TESTS = [
    "gives_one_finite_number_for_each_channel",
    "gives_the_same_again",
    "permuting_filters_permutes_their_scores",
    "leaves_the_model_as_it_was",
]


def changes_weights(data):
    tensor = data.network.source.tensors[data.group.members[0].tensor]
    tensor.data.mul_(1.5)
    return np.zeros(len(data.group))


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (lambda data: [float(np.abs(f).sum()) for f in data.filters[0]], []),
        (lambda data: np.arange(len(data.group)), ["permuting_filters_permutes_their_scores"]),
        (lambda data: np.full(len(data.group), np.inf), TESTS[:1]),
        (lambda data: np.zeros(2), [*TESTS]),
        (changes_weights, ["leaves_the_model_as_it_was"]),
    ],
    ids=["sound", "by position", "infinite", "too few", "changes the model"],
)
def test_the_battery_finds_what_is_wrong(criterion, expected):
    assert failures(criterion, TESTS) == expected


def test_the_battery_finds_a_criterion_that_is_not_deterministic():
    count = itertools.count()
    never = failures(lambda data: np.full(len(data.group), next(count)), ["gives_the_same_again"])
    assert never == ["gives_the_same_again"]
