import pytest

from secateurs.errors import BudgetError
from secateurs.planning.budget import UNITS, Budget
from support.networks_by_hand import two_layers


def test_limits_are_those_that_were_given():
    budget = Budget(macs=0.5, size_mb="400 kB", precision="float16")
    assert budget.limits == {"macs": 0.5, "size_mb": "400 kB"}
    assert (budget.file.format, budget.file.precision) == ("safetensors", "float16")
    assert not budget.is_timed
    assert Budget(latency=0.5, threads=1).is_timed
    assert Budget(latency=0.5, threads=1).conditions.threads == 1


def test_a_budget_is_the_same_after_plain_values_and_text():
    for budget in (
        Budget(macs=0.5, params=1000),
        Budget(latency_ms=3, runtime="onnxruntime", threads=2),
        Budget(size_mb=2, format="onnx", precision="int8"),
    ):
        assert Budget.of(budget.as_plain) == budget
        assert Budget.parse(str(budget)) == budget
        assert Budget.of(budget) is budget


def test_absolute_numbers_are_shares_of_the_dense_network_or_as_they_are():
    network = two_layers()
    budget = Budget(params=0.5, macs=40, channels=0.25)
    found = budget.absolute_for(network)
    assert found == {"params": 14.0, "macs": 40.0, "channels": 1.0}
    assert Budget.from_absolute({"params": 14, "macs": 40}).limits == {"params": 14, "macs": 40}


def test_without_some_limits_their_conditions_go_too():
    budget = Budget(macs=0.5, latency=0.5, threads=1, size_mb=2, format="onnx")
    assert budget.ablate("latency") == Budget(macs=0.5, size_mb=2, format="onnx")
    assert budget.ablate("size_mb") == Budget(macs=0.5, latency=0.5, threads=1)
    assert budget.ablate(*budget.limits) is None


def test_what_only_a_model_can_tell_is_begun_at_half_of_the_macs():
    assert Budget(drop=0.01).first_guess == Budget(macs=0.5)
    assert Budget(drop=0.01, params=0.3).first_guess == Budget(params=0.3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Budget, f"at least one of {', '.join(UNITS)}; received none"),
        (lambda: Budget(macs=-1), "macs"),
        (lambda: Budget(macs=0.5, threads=1), "threads"),
        (lambda: Budget(macs=0.5, precision="int8"), "precision.*expected size_mb beside it.*macs"),
        (lambda: Budget.parse("macs"), "a budget such as 'macs=0.5'.*received 'macs'"),
        (lambda: Budget.parse("mac=0.5"), "did you mean 'macs'"),
        (lambda: Budget.parse("macs=0.5,params=0.3,macs=0.4"), "macs: expected once"),
        (lambda: Budget.of({"mac": 0.5}), "no budget is called 'mac'; did you mean 'macs'"),
        (lambda: Budget.of(0.5), "expected a budget: .*received 0.5"),
        (lambda: Budget(size_mb=1, format="onxx"), "did you mean 'onnx'"),
    ],
)
def test_invalid_budgets_are_refused(make, message):
    with pytest.raises(BudgetError, match=message):
        make()
