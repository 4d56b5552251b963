"""The battery for rules: on rules of ours, and on a wrong one."""

import pytest
import torch
from torch import nn

from secateurs.errors import SecateursError
from secateurs.pytorch.tracing.rules.registry import RULES
from secateurs.testing import RuleBattery
from secateurs.testing.networks import CHANNELS, CLASSES, NETWORKS, build_network, images


def battery(build, example_inputs):
    made = type("Battery", (RuleBattery,), {"build": staticmethod(build)})
    made.example_inputs = example_inputs
    return made


for _name in NETWORKS:
    globals()[f"TestOf{_name.title()}"] = battery(
        lambda name=_name: build_network(name), images()[:2]
    )


class Flipped(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(CHANNELS, 6, 1)
        self.second = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x):
        return self.second(torch.relu(self.first(x).flip(1))).mean((2, 3))


TestOfFlip = battery(Flipped, images()[:2])


def test_a_wrong_rule_fails_the_battery(monkeypatch):
    def lies(tracer, call):
        """Says that the channels stay where they are."""
        output = call.run()
        tracer.put(output, dict(tracer.axes(call["self"])))
        return output

    monkeypatch.setitem(RULES, torch.ops.aten.flip, lies)
    with pytest.raises((SecateursError, AssertionError)):
        battery(Flipped, images()[:2])().test_each_channel_can_go_and_is_proven()
