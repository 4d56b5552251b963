import pytest

from secateurs.errors import BudgetError
from secateurs.planning.tried_units import Drop, PeakMemoryMb
from secateurs.planning.units import Candidate
from support.networks_by_hand import two_layers


@pytest.mark.parametrize("unit", [Drop(), PeakMemoryMb()])
def test_tried_units_need_a_cut_model(unit):
    network = two_layers()
    assert unit.is_tried
    with pytest.raises(
        BudgetError, match=rf"{unit.name}: it can only be measured on a cut model. Use sec.prune"
    ):
        unit.predict(Candidate(network, network.alive()))


def test_a_drop_is_absolute_and_of_at_least_nothing():
    unit = Drop()
    assert unit.absolute(0.01, dense=0.9) == 0.01
    assert (unit.show(0.0123456), PeakMemoryMb().show(12.345)) == ("0.01235", "12.3 MB")
    unit.check(0)
    for wrong in (-0.1, "x", True, float("nan")):
        with pytest.raises(BudgetError, match="drop: expected a number of at least 0"):
            unit.check(wrong)


def test_a_drop_is_a_share_and_not_in_points():
    Drop().check(2)  # of perplexity, say
    Drop().check_share(1.0)
    with pytest.raises(BudgetError, match=r"a share of 1.*received int 2. 2 points are drop=0.02$"):
        Drop().check_share(2)
