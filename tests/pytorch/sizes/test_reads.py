"""Which integers a forward pass reads."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.sizes import reads
from secateurs.pytorch.sizes.unread import may_count
from support.sized_blocks import Block, Holds, Reads

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_reads_are_recorded_and_attributes_restored():
    model = nn.ModuleList([Reads(), Block(3, 16)])
    before = [dict(vars(module)) for module in model]
    watch = reads.Reads(model, may_count)
    with watch.watch():
        model[0](torch.rand(2, 4))
        assert "gain" not in vars(model[0])
        assert model[1].out_channels == 16
        assert not list(model[1].buffers())
    assert watch.read == {("0", "gain"), ("1", "out_channels")}
    assert ("1", "in_channels") in watch.watched
    assert ("1", "half") not in watch.watched  # nn.Module has an attribute of this name itself
    assert [dict(vars(module)) for module in model] == before


@dataclass(frozen=True)
class Settings:
    hidden: int = 16
    other: int = 5


class Slotted:
    __slots__ = ("hidden",)

    def __init__(self):
        self.hidden = 16


Named = namedtuple("Named", "hidden other")


HOLDERS = {
    "tuple": (lambda: (16, 5), lambda kept: kept[0]),
    "list": (lambda: [5, 16], lambda kept: kept[1]),
    "dictionary": (lambda: {"hidden": 16}, lambda kept: kept["hidden"]),
    "nested": (lambda: {"a": ((5, 16), 3), 7: [1]}, lambda kept: kept["a"][0][1]),
    "named tuple": (lambda: Named(16, 5), lambda kept: kept.hidden),
    "data class": (Settings, lambda kept: kept.hidden),
    "object in object": (lambda: SimpleNamespace(inner=Settings()), lambda kept: kept.inner.hidden),
    "slots": (Slotted, lambda kept: kept.hidden),
}


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("kind", HOLDERS)
def test_a_number_is_followed_wherever_it_is_kept(kind, is_read):
    make, get = HOLDERS[kind]
    model = Holds(make(), get if is_read else None).eval()
    small = sec.delete_channels(model, {"a": [0, 7, 9]}, X)
    assert (get(small.kept), get(model.kept)) == (13, 16)
    again = sec.Cut.from_json(sec.report_of(small).cut.to_json())
    assert get(sec.apply(model, again, X, proof=False).kept) == 13
