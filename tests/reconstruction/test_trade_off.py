"""The frontier: one cut per budget, none worse for a larger budget."""

import pytest

import secateurs as sec
from secateurs.reconstruction.pruner import Distilling, Pruner, Request
from support.digits_network import IMAGES, Y


def test_the_frontier_never_loses_by_spending_more(dense):
    shares = (0.8, 0.5, 0.3, 0.15)
    found = sec.frontier(dense, IMAGES[:1], calibration=(IMAGES, Y[:320]), shares=shares)
    assert [point.name for point in found] == ["dense", *(f"macs={share}" for share in shares)]
    distances = [point.fidelity.distance for point in found]
    assert distances == sorted(distances)
    macs = sec.trace(dense, IMAGES[:1]).macs()
    for point, share in zip(list(found)[1:], shares, strict=True):
        assert point.cost.macs <= share * macs
        assert sec.trace(point.model, IMAGES[:1]).macs() == point.cost.macs
    assert found.measure == "accuracy"
    assert found.model("macs=0.5") is found["macs=0.5"].model
    assert found.knee in {point.name for point in found}
    assert f"{found.knee} *" in str(found)
    assert found.figure().axes[0].get_title(loc="left").endswith("of the MACs")
    with pytest.raises(sec.UnknownNameError, match=r"did you mean 'macs=0.5'"):
        found.model("macs=0.51")


def test_a_smaller_model_that_is_better_is_taken_for_a_larger_budget(dense):
    from types import SimpleNamespace

    from secateurs.reconstruction.trade_off import choose_better

    def point(distance):
        from secateurs.reconstruction.trade_off import Point

        fidelity = SimpleNamespace(distance=distance)
        return Point(f"d={distance}", object(), None, None, 0.5, fidelity)

    small, large = point(0.1), point(0.2)
    taken = choose_better(large, [small])
    assert (taken.model, taken.name) == (small.model, large.name)
    assert choose_better(small, [large]) is small


def test_a_smaller_budgets_cut_is_taken_where_it_is_surely_nearer(dense, monkeypatch):
    network = sec.trace(dense, IMAGES[:1])
    pruner = Pruner.of(dense, network, IMAGES, Request())
    plan, asked = Pruner.plan, []

    def misplan(self, budget, **planning):
        """As if curves said that the last layer's channels were free; right for a quarter."""
        asked.append(round(budget.absolute_for(network)["macs"] / network.macs(), 4))
        wrong = {0.9: 19, 0.45: 18}.get(asked[-1])
        if wrong is not None:
            return network.cut({"last": list(range(wrong))})
        return plan(self, budget, **planning)

    monkeypatch.setattr(Pruner, "plan", misplan)
    small, cut = pruner.make_best(sec.Budget(macs=0.9))
    assert asked[:3] == [0.9, 0.45, 0.225]
    assert network.cost(cut).macs <= 0.225 * network.macs()
    bad = sec.report_of(pruner.make(misplan(pruner, sec.Budget(macs=0.9)))).fidelity.fidelity
    good = sec.report_of(small).fidelity.fidelity
    assert good.distance + bad.error < bad.distance
    assert sec.trace(small, IMAGES[:1]).macs() == network.cost(cut).macs


def test_a_smaller_budgets_cut_is_not_made_where_curves_say_it_loses_more(dense, monkeypatch):
    pruner = Pruner.of(dense, sec.trace(dense, IMAGES[:1]), IMAGES, Request())
    make, made = Pruner.make, []

    def count_cut(self, cut, **how):
        made.append(cut)
        return make(self, cut, **how)

    monkeypatch.setattr(Pruner, "make", count_cut)
    _, cut = pruner.make_best(sec.Budget(macs=0.5))
    assert made == [cut]
    assert cut == pruner.plan(sec.Budget(macs=0.5))
    by_group = [
        pruner.curves.losses[name][gone.of - len(gone.removed)]
        for name, gone in cut.channels.items()
    ]
    assert pruner.foreseen(cut) == pytest.approx(sum(by_group))


@pytest.mark.parametrize(("wrong", "distilled"), [({0.9: 19, 0.45: 19}, [0.9]), ({0.9: 19}, None)])
def test_a_smaller_budgets_cut_is_distilled_only_where_it_is_nearer_without(
    dense, monkeypatch, wrong, distilled
):
    network = sec.trace(dense, IMAGES[:1])
    pruner = Pruner.of(dense, network, IMAGES, Request())
    plan, make, made = Pruner.plan, Pruner.make, []

    def misplan(self, budget, **planning):
        share = round(budget.absolute_for(network)["macs"] / network.macs(), 4)
        if share in wrong:
            return network.cut({"last": list(range(wrong[share]))})
        return plan(self, budget, **planning)

    def note(self, cut, *, distil=None, **how):
        made.append((network.cost(cut).macs / network.macs(), distil is not None))
        return make(self, cut, distil=distil, **how)

    monkeypatch.setattr(Pruner, "plan", misplan)
    monkeypatch.setattr(Pruner, "make", note)
    small, cut = pruner.make_best(sec.Budget(macs=0.9), distil=Distilling.parse(3))
    assert "distilled" in sec.report_of(small).fidelity
    if distilled is None:  # the cut for 0.45 is right: it is made, and then distilled as well
        assert [is_distilled for _, is_distilled in made[:3]] == [True, False, True]
        assert made[1][0] == made[2][0] <= 0.45
        assert network.cost(cut).macs <= 0.45 * network.macs()
    else:
        assert [is_distilled for _, is_distilled in made] == [True, False]
        assert cut == network.cut({"last": list(range(19))})
