import torch
from torch import nn

import secateurs as sec
from secateurs.planning.group_kinds import kinds_of


def test_a_group_is_of_the_first_kind_of_layers_that_it_goes_in_or_out_of():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),  # out of 3x3, into depthwise
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 6, 1),  # out of 1x1, into 3x3
        nn.Conv2d(6, 8, 3, padding=1),  # out of 3x3, into 1x1
        nn.Conv2d(8, 5, 1),  # between layers of 1x1 alone
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 7),
        nn.Linear(7, 2),
    )
    found = kinds_of(sec.trace(model, torch.zeros(1, 3, 8, 8)))
    assert found == {"0": "depthwise", "2": "kxk", "3": "kxk", "4": "1x1", "7": "1x1"}
