"""Sizes in a cut from a file only change integers of modules; they cannot inject anything."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.channels.cut import Cut, SizeChange


class Model(nn.Module):
    shared = 8

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.width, self.is_on, self.scale = 8, True, 8.0
        self.sizes, self.shape = {"h": 8}, [8, 2]
        self.config = SimpleNamespace(width=8)

    @property
    def width_in_code(self):
        return 8

    def forward(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize(
    ("owner", "attribute", "position", "before"),
    [
        ("", "planted", None, 8),
        ("", "shared", None, 8),  # the class's, for every model
        ("", "width_in_code", None, 8),
        ("", "is_on", None, 1),
        ("", "scale", None, 8),
        ("", "forward", None, 8),
        ("", "__class__", None, 8),
        ("", "__dict__.width", None, 8),
        ("", "config.__dict__", "width", 8),
        ("", "config.other", None, 8),
        ("", "nobody.width", None, 8),
        ("", "sizes", "w", 8),
        ("", "sizes", 0, 8),
        ("", "shape", -1, 2),
        ("", "shape", 2, 8),
        ("", "shape", "0", 8),
        ("", "width", None, 4),
        ("nobody", "width", None, 8),
        ("config", "width", None, 8),
        ("first.weight", "width", None, 8),
    ],
)
@pytest.mark.parametrize("proof", [True, False])
def test_sizes_that_the_model_does_not_keep_are_refused(owner, attribute, position, before, proof):
    model, inputs = Model(), torch.rand(1, 4)
    network = sec.trace(model, inputs)
    cut = network.cut_of_layers({"first": [1]})
    hostile = SizeChange(owner, attribute, position, before, 1)
    cut = Cut(cut.tensors, (*cut.sizes, hostile), cut.channels)
    before_all = list(vars(model))
    with pytest.raises(sec.CutError, match="expected a whole number of") as caught:
        sec.apply(model, Cut.from_json(cut.to_json()), inputs, network=network, proof=proof)
    assert "\n" not in str(caught.value)
    assert list(vars(model)) == before_all


def test_sizes_that_it_keeps_are_changed_in_the_copy_alone():
    model, inputs = Model(), torch.rand(1, 4)
    cut = sec.trace(model, inputs).cut_of_layers({"first": [1]})
    more = [
        SizeChange("", "width", None, 8, 7),
        SizeChange("", "sizes", "h", 8, 7),
        SizeChange("", "shape", 0, 8, 7),
        SizeChange("", "config.width", None, 8, 7),
    ]
    places = {(s.owner, s.attribute, s.position) for s in cut.sizes}
    added = [s for s in more if (s.owner, s.attribute, s.position) not in places]
    cut = Cut(cut.tensors, (*cut.sizes, *added), cut.channels)
    small = sec.apply(model, cut, inputs, proof=False)
    assert (small.width, small.sizes, small.shape, small.config.width) == (7, {"h": 7}, [7, 2], 7)
    assert (model.width, model.sizes, model.shape, model.config.width) == (8, {"h": 8}, [8, 2], 8)
    assert small.first.out_features == small.last.in_features == 7
