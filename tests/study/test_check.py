import pytest

from secateurs.errors import BudgetError, SecateursError, UnknownNameError
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Configuration, Stop
from secateurs.settings.training import Training
from secateurs.study.check import check_study
from support.scripted import Scripted


def check(criterion="l1", training=(), pruning=(), stop=()):
    configuration = Configuration(
        training=Training(**dict(training)),
        pruning=Pruning(**dict(pruning)),
        stop=Stop(**dict(stop)),
    )
    return check_study(Scripted(lambda *_: 0.5), configuration, criterion)


def test_what_can_be_done_gives_the_network_it_begins_with():
    network = check(stop={"budget": "params=0.5", "tolerance": 0.99})
    assert {group.name: len(group) for group in network.groups} == {"0": 20, "2": 20}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"criterion": "l1_men"}, UnknownNameError, "did you mean 'l1_mean'"),
        ({"pruning": {"rewind": "weights"}}, SecateursError, "expected training.batches above 0"),
        (
            {"stop": {"tolerance": 1.0}},
            SecateursError,
            "expected a tolerance below 1, a share of acc",
        ),
        ({"pruning": {"skip": ("9",)}}, UnknownNameError, "'9'"),
        (
            {"stop": {"budget": "params=0.001"}},
            BudgetError,
            r"^budget params=0\.001: .*no cut .* meets params=\d+; the nearest",
        ),
        ({"stop": {"budget": "macs=0.0001"}}, BudgetError, "macs"),
    ],
)
def test_impossible_studies_are_refused_before_training(options, kind, message):
    with pytest.raises(kind, match=message):
        check(**options)


def test_without_a_tolerance_any_loss_is_gone_on_with():
    assert check(stop={"tolerance": None}).groups


def raises(facts):
    raise ValueError("not yet")


@pytest.mark.parametrize(
    ("criterion", "message"),
    [(raises, r"raises: .*ValueError: not yet"), (lambda facts: [1.0], "expected 20 scores")],
)
def test_a_users_criterion_is_tested_before_training(criterion, message):
    with pytest.raises(SecateursError, match=message):
        check(criterion=criterion)
    assert check(criterion=lambda facts: [0.0] * len(facts))
