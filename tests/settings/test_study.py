import pytest

from secateurs.errors import BudgetError, SecateursError
from secateurs.planning.budget import Budget
from secateurs.settings.study import Configuration, Stop, Task, parse_budget
from secateurs.settings.training import Training


def test_a_budget_is_read_from_text_with_spaces():
    assert parse_budget(" macs = 0.5 , params=1000 ") == Budget(macs=0.5, params=1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "macs=0.5,macs=0.4",
            "expected each unit once; received macs twice, in 'macs=0.5,macs=0.4'",
        ),
        ("macs=inf", "macs: expected a finite number; received 'inf'"),
        ("macs=nan", "received 'nan'"),
        ("macs=0.5,a\nb=1,a\nb=1", r"expected such as .*received 'macs=0.5,a\\nb=1"),
        ("mcas=0.5", "mcas.*did you mean 'macs'"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(BudgetError, match=message):
        parse_budget(text)


@pytest.mark.parametrize("given", ["macs=0.5", {"macs": 0.5}, Budget(macs=0.5)])
def test_a_study_takes_a_budget_in_any_form(given):
    assert Stop(budget=given).budget == Budget(macs=0.5)


def test_a_drop_is_the_tolerance():
    assert Stop(budget="drop=0.02").tolerance == 0.02
    assert Stop(budget="drop=0.02", tolerance=0.02).tolerance == 0.02
    with pytest.raises(SecateursError, match=r"expected the budget's drop=0.02.*received 0.1"):
        Stop(budget="drop=0.02", tolerance=0.1)


def test_a_configuration_is_the_same_after_json(tmp_path):
    mine = Configuration(
        task=Task(model="resnet18", data="digits", data_options={"limit": 3}),
        training=Training(batches=3),
        stop=Stop(budget="macs=0.3,size_mb=2", rounds=4),
        command=("secateurs", "run"),
    )
    mine.save(tmp_path / "config.json")
    again = Configuration.load(tmp_path / "config.json")
    assert again == mine
    assert again.stop.budget == Budget(macs=0.3, size_mb=2)
    other = mine.model_copy(update={"stop": Stop(rounds=5, budget="macs=0.3,size_mb=2")})
    assert mine.differences(other) == ["stop.rounds: 4, not 5"]
