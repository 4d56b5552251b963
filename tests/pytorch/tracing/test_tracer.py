"""What a trace records of each operation: costs, units, mixing and its place in the code."""

import math
from pathlib import Path

import numpy as np
import pytest
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


def trace(model, x=None):
    return sec.trace(model.eval(), torch.randn(5, 3) if x is None else x)


def test_products_cost_their_lengths_for_the_examples_that_were_traced():
    network = trace(Net())
    found = {
        c.layer: c.macs.constant * math.prod(map(len, c.macs.axes)) for c in network.contractions
    }
    assert found == {"first": 5 * 3 * 6, "last": 5 * 6 * 2}
    (group,) = network.groups
    assert network.cost_of(network.alive(group.channels[:2])).macs == 5 * (3 * 4 + 4 * 2)


def test_mixing_operations_are_listed_with_their_layers():
    (group,) = trace(Net()).groups
    assert group.name == "first"
    assert group.inexact == ("layer_norm over channels in norm",)


def test_operations_are_noted_in_order_with_their_layers():
    operations = source_of(trace(Net())).operations
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

    network = trace(Odd(), torch.randn(6, 3))
    (reason,) = (why for why in network.frozen_for if "matrix_exp" in why)
    line = Odd.forward.__code__.co_firstlineno + 1
    assert f"test_tracer.py:{line}" in reason


def test_sizes_that_follow_channels_are_noted():
    network = trace(Net())
    sizes = {(size.owner, size.attribute): len(size.value.axes[0]) for size in network.sizes}
    assert sizes["first", "out_features"] == 6
    assert sizes["last", "in_features"] == 6


class Between(nn.Module):
    """A layer, something that nobody can follow, and a layer that reads it."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 6), nn.Linear(6, 6), function

    def forward(self, x):
        h = self.first(x)
        h = self.function(h)
        return self.last(h)


OURS = "/".join(Path(sec.__file__).parts[-3:-1]) + "/"  # a clone may well be called so, too
LINE = Between.forward.__code__.co_firstlineno + 2
FREEZES = {
    "softmax": lambda h: h.softmax(1),
    "sort": lambda h: h.sort(1).values,
    "cumsum": lambda h: h.cumsum(1),
    "_fft_r2c": lambda h: torch.fft.fft(h).real,
    "indexed": lambda h: h[:, [3, 1, 0, 2, 5, 4]],
    "wrapped around by roll": lambda h: h.roll(1, 1),
    "histc": lambda h: torch.stack([torch.histc(row, bins=6) for row in h]),
    "linalg_matrix_exp": lambda h: torch.linalg.matrix_exp(h[:, None] * h[:, :, None])[:, 0],
    "the number 3": lambda h: h.view(-1, 3, 2).amax(1).repeat(1, 3),
    "mul": lambda h: h * torch.arange(6.0),
    "argmax": lambda h: h * h.argmax(1, keepdim=True),
}


@pytest.mark.parametrize("name", FREEZES)
def test_what_freezes_a_layer_names_its_operation_and_the_users_line(name):
    network = trace(Between(FREEZES[name]))
    (stuck,) = (one for one in network.frozen if one.members[0] == "first")
    assert any(name in reason for reason in stuck.reasons)
    lines = (LINE, FREEZES[name].__code__.co_firstlineno)
    places = [f"test_tracer.py:{line} " for line in lines]
    for reason in stuck.reasons:
        assert any(place in reason for place in places), reason
        assert OURS not in reason


def test_through_the_loop_it_is_the_users_line_as_well():
    rows = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    pair = rows, np.arange(32) % 6
    line = FREEZES["softmax"].__code__.co_firstlineno
    with pytest.raises(
        sec.ModelError, match=rf"softmax .* at \S*test_tracer\.py:{line} "
    ) as raised:
        sec.iterate(Between(FREEZES["softmax"]), pair, pair, stop=sec.Stop(rounds=1))
    assert OURS not in str(raised.value)
