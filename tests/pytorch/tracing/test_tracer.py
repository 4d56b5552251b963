"""What a trace notes of each operation: costs, units, mixing, and where it was."""

import math

import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.pytorch.trace_model import source_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.norm(F.relu(self.first(x))))


def traced(model, x=None):
    return sec.trace(model.eval(), torch.randn(5, 3) if x is None else x)


def test_products_cost_their_lengths_for_the_examples_that_were_traced():
    network = traced(Net())
    found = {
        c.layer: c.macs.constant * math.prod(map(len, c.macs.axes)) for c in network.contractions
    }
    assert found == {"first": 5 * 3 * 6, "last": 5 * 6 * 2}
    (group,) = network.groups
    assert network.cost_of(network.alive(group.channels[:2])).macs == 5 * (3 * 4 + 4 * 2)


def test_what_mixes_channels_is_named_with_its_layer():
    (group,) = traced(Net()).groups
    assert group.name == "first"
    assert group.inexact == ("layer_norm over channels in norm",)


def test_operations_are_noted_in_order_with_their_layers():
    operations = source_of(traced(Net())).operations
    assert [(one.name, one.layer) for one in operations] == [
        ("aten.linear", "first"),
        ("aten.relu", ""),
        ("aten.layer_norm", "norm"),
        ("aten.linear", "last"),
    ]


def test_a_frozen_channel_says_the_line_that_froze_it():
    class Odd(Net):
        def forward(self, x):
            return self.last(torch.linalg.matrix_exp(self.first(x)[:6, :6].expand(6, 6)))

    network = traced(Odd(), torch.randn(6, 3))
    (reason,) = (why for why in network.frozen_for if "matrix_exp" in why)
    line = Odd.forward.__code__.co_firstlineno + 1
    assert f"test_tracer.py:{line}" in reason


def test_sizes_that_follow_channels_are_noted():
    network = traced(Net())
    sizes = {(size.owner, size.attribute): len(size.value.axes[0]) for size in network.sizes}
    assert sizes["first", "out_features"] == 6
    assert sizes["last", "in_features"] == 6
