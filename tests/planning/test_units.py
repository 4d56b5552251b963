"""Each unit of a budget is parsed, measured, predicted and formatted; one battery for all."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import secateurs as sec
from secateurs.planning.budget import UNITS
from secateurs.planning.units import Candidate


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
    return sec.trace(model, torch.randn(1, 6))


BY_HAND = {  # of 6 -> 10 -> 4, and of 6 -> 7 -> 4
    "channels": (10, 7),
    "params": (60 + 10 + 40 + 4, 42 + 7 + 28 + 4),
    "macs": (60 + 40, 42 + 28),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_measured_and_predicted_is_what_is_counted_by_hand(network, name):
    unit, cut = UNITS[name], network.cut({"0": [1, 4, 9]})
    dense, small = BY_HAND[name]
    assert unit.measure(network, sec.Cut()) == dense
    assert unit.measure(network, cut) == small
    alive = network.alive(network.removed_by(cut))
    assert unit.predict(Candidate(network, alive)) == small


def test_a_file_is_measured_as_it_is_written(network, tmp_path):
    cut = network.cut({"0": [1, 4, 9]})
    small = sec.apply(network.source.model, cut, torch.randn(1, 6), network=network)
    sec.save(small, tmp_path / "small.safetensors")
    size = (tmp_path / "small.safetensors").stat().st_size
    assert UNITS["size_mb"].measure(network, cut) == size
    alive = network.alive(network.removed_by(cut))
    predicted = UNITS["size_mb"].predict(Candidate(network, alive))
    with safe_open(tmp_path / "small.safetensors", "np") as file:
        tensors = sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    assert predicted == tensors < size


@pytest.mark.parametrize("name", ["channels", "params", "macs", "size_mb"])
def test_what_is_absolute_is_read_back_as_the_same_number(name):
    unit = UNITS[name]
    for number in (3.0, 1234.0, 5e6):
        limit = unit.limit_from(number)
        unit.check(limit)
        assert unit.absolute(limit, dense=1e9) == pytest.approx(number, abs=1e-3)


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_refuses_invalid_limits_and_formats_numbers(name):
    unit = UNITS[name]
    for bad in (-1.0, float("nan"), "much"):
        with pytest.raises(sec.BudgetError, match=f"{name}: expected"):
            unit.check(bad)
    assert "1" in unit.show(np.float64(1234.0))
    assert getattr(sec.Budget(**{name: 1.0}), name) == 1.0  # as a keyword of a budget
