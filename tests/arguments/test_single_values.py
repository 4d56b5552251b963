"""A single value is accepted wherever several are: the same as a list of one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.arguments import takes_as_annotated
from support.small_networks import Residual, images, labels

X, Y = images(), labels()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return sec.trace(Residual(), X[:1])


def test_numbers_and_names(network):
    data, group = (X, Y), network.groups[0].name
    assert sec.sensitivity(network, data, amounts=0.5).amounts == (0.5,)
    assert list(sec.score_many(network, "l1")) == ["l1"]
    alone, listed = (
        sec.tournament(network, data, lambda s: sec.plan(network, s, amount=0.5), candidates=one)
        for one in ("l1", ["l1"])
    )
    assert [one.loss for one in alone.standings] == [one.loss for one in listed.standings]
    assert network.cut({group: 1}) == network.cut({group: [1]})
    layer = network.groups[0].name
    assert network.cut_of_layers({layer: 1}) == network.cut_of_layers({layer: [1]})
    small = sec.delete_channels(Residual(), {layer: 1}, X[:1])
    assert len(sec.trace(small, X[:1]).groups[0]) == len(network.groups[0]) - 1


def test_a_benchmark_of_one_of_each():
    model = nn.Sequential(nn.Linear(512, 2048), nn.Linear(2048, 512))
    found = sec.bench(model, torch.zeros(1, 512), threads=1, batches=2, runtimes="eager")
    assert [(row.conditions.threads, row.conditions.batch) for row in found.rows] == [(1, 2)]


def test_a_block_is_one_name_and_not_its_letters():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.b(self.a(x).relu())

    network = sec.trace(nn.Sequential(Block(), Block(), nn.Linear(8, 2)), torch.zeros(1, 8))
    assert network.cut_of_blocks("1") == network.cut_of_blocks(["1"])
    assert network.cut({}, blocks="1").blocks == network.cut_of_blocks(["1"]).blocks
    with pytest.raises(sec.UnknownNameError, match="no block named '10'"):
        network.cut_of_blocks("10")


def test_where_annotations_say_that_a_sequence_is_taken():
    @takes_as_annotated()
    def total(numbers: Sequence[float] | None, names: Sequence[str] = ()):
        return numbers, names

    assert total(0.5) == ((0.5,), ())
    assert total(None, names="a") == (None, ("a",))
    with pytest.raises(sec.SecateursError, match="numbers: expected"):
        total("a")
    with pytest.raises(sec.SecateursError, match="numbers: expected"):
        total(True)
