"""Every module gets its own mode back."""

import pytest
from torch import nn

from secateurs.pytorch.model.modes import evaluating


class Raising(nn.Module):
    def forward(self):
        raise ValueError(f"training: {self.training}")


def test_modes_are_restored_also_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)), Raising())
    model[1].eval()
    with pytest.raises(ValueError, match="training: False"), evaluating(model):
        model[2]()
    assert [module.training for module in model.modules()] == [True, True, False, False, True]
