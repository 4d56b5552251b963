"""The battery for units of budgets: ours pass it, and it finds what is wrong with others."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import secateurs as sec
from secateurs.planning.units import Channels, Macs, Params, SizeMb
from secateurs.testing import BudgetUnitBattery
from secateurs.testing.networks import images


class TestParams(BudgetUnitBattery):
    unit = Params()

    def count(self, model):
        return sum(parameter.numel() for parameter in model.parameters())


class TestMacs(BudgetUnitBattery):
    unit = Macs()

    def count(self, model):
        with FlopCounterMode(display=False) as counter:
            model(torch.from_numpy(images()[:1]))
        return counter.get_total_flops() / 2


class TestChannels(BudgetUnitBattery):
    unit = Channels()

    def count(self, model):
        """Of the layers that write channels of a group; the residual sum's are written twice."""
        wide = {type(model).__name__: ("conv1", "conv2")}
        names = {**wide, "Residual": ("stem", "conv1")}[type(model).__name__]
        return sum(getattr(model, name).out_channels for name in names)


class TestSizeMb(BudgetUnitBattery):
    unit = SizeMb()
    limits = (0.25, 0.5, 1.0, 40.0, "400 kB")
    refused = (0, -1.0, "much", "4 TB", None, True)
    texts = {"0.5": 0.5, "400 kB": "400 kB"}  # noqa: RUF012
    foreseen = 0.9  # a file's header, of which only a cut tells, outweighs networks this small

    def count(self, model):
        with tempfile.TemporaryDirectory() as directory:
            sec.save(model, Path(directory) / "small.safetensors")
            return (Path(directory) / "small.safetensors").stat().st_size

    def test_a_fraction_is_of_the_dense_model(self):
        assert self.unit.absolute(0.5, 80.0) == 40.0
        assert self.unit.absolute(40.0, 80.0) == 40e6

    def test_a_scaled_limit_allows_as_many_times_as_much(self):
        for limit, absolute in ((0.5, 5e5), ("400 kB", 4e5)):
            scaled = self.unit.scale(limit, 0.75, absolute)
            assert self.unit.absolute(scaled, 1e6) == pytest.approx(0.75 * absolute)


class Biases(Params):
    """Counts what it should not: no bias."""

    name = "biases"

    def predict(self, candidate):
        return super().predict(candidate) - 4


class Careless(Params):
    name = "careless"

    def check(self, limit):
        pass


class Rising(Params):
    name = "rising"

    def predict(self, candidate):
        return -super().predict(candidate)


class Fixed(Params):
    name = "fixed"

    def scale(self, limit, factor, absolute):
        return limit


@pytest.mark.parametrize(
    ("unit", "test"),
    [
        (Biases(), "predicts_and_measures_what_a_cut_model_takes"),
        (Careless(), "refuses_what_is_no_limit_and_names_itself"),
        (Rising(), "never_takes_more_when_more_has_gone"),
        (Fixed(), "a_scaled_limit_allows_as_many_times_as_much"),
    ],
)
def test_the_battery_finds_what_is_wrong(unit, test):
    battery = type("Battery", (TestParams,), {"unit": unit})()
    with pytest.raises((AssertionError, pytest.fail.Exception, sec.BudgetError)):
        getattr(battery, f"test_{test}")()
