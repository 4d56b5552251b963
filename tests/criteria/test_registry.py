"""How a criterion is registered, found and described."""

import pytest

from secateurs.criteria import CRITERIA, Need
from secateurs.criteria.registry import check_known, criterion, find
from secateurs.errors import UnknownNameError

NAMES = list(CRITERIA)


@pytest.mark.parametrize("name", NAMES)
def test_a_criterions_card_describes_it(name):
    card = CRITERIA[name].card
    assert CRITERIA[name].summary.endswith((".", ":"))
    for part in ("Formula:", "Cost:", "When it hurts:", "Source:"):
        assert part in card, part


@pytest.fixture
def registry():
    """What a test registers is taken off again."""
    before = dict(CRITERIA)
    yield CRITERIA
    CRITERIA.clear()
    CRITERIA.update(before)


def test_a_function_is_registered_under_its_name_or_another(registry):
    @criterion(Need.WEIGHTS)
    def halves(facts):
        """Half of everything."""

    @criterion(Need.GATES, "thirds", with_data=Need.GRAMS)
    def other(facts):
        """A third: of everything.

        Formula: none.
        """

    assert registry["halves"].function is halves
    assert find("halves").needs is Need.WEIGHTS
    assert find(other) is registry["thirds"]  # the function itself is known with what it needs
    assert find(other).with_data is Need.GRAMS
    assert registry["thirds"].summary == "A third: of everything."
    assert registry["thirds"].card == "A third: of everything.\n\nFormula: none."


def test_a_function_that_is_not_registered_sees_the_weights():
    def mine(facts):
        return 0

    found = find(mine)
    assert (found.name, found.function, found.needs) == ("mine", mine, Need.WEIGHTS)
    assert found.card == ""


def test_an_unknown_criterion_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'tailor'.*did you mean 'taylor'"):
        find("tailor")
    with pytest.raises(UnknownNameError, match="no criterion named 'xyz'"):
        check_known("xyz")
    check_known("auto")
    with pytest.raises(UnknownNameError):
        find("auto")  # a tournament is no criterion
