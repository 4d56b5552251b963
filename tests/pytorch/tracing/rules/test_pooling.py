import torch
from torch import nn

import secateurs as sec
from support.traced import Net, check_cut_of_everything


def test_positions_are_not_channels():
    model = Net(
        lambda m, x: m.b(m.a(x) + m.positions),
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
        positions=nn.Parameter(torch.randn(1, 5, 6)),
    )
    inputs = torch.randn(2, 5, 3)
    network = sec.trace(model, inputs)
    (group,) = network.groups
    assert {(m.tensor, m.axis) for m in group.members if m.tensor == "positions"} == {
        ("positions", 2)
    }
    small = check_cut_of_everything(model, network, inputs)
    assert small.positions.shape == (1, 5, 4)
