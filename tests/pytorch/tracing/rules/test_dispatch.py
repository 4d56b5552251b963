import torch
from torch import nn

import secateurs as sec


class Does(nn.Module):
    """A layer, something in between, and a layer that reads it."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 6), nn.Linear(6, 2), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def groups(function):
    network = sec.trace(Does(function).eval(), torch.randn(2, 3))
    return {group.name: len(group) for group in network.groups}, network


def test_pointwise_operations_that_have_no_rule_are_known_by_their_tag():
    found, _ = groups(torch.special.erfcx)
    assert found == {"first": 6}


def test_in_place_operations_are_their_functional_variant_and_a_copy():
    model = Does(lambda h: h.cumsum_(0)).eval()  # along the images: channels are apart
    x = torch.randn(4, 3)
    small = sec.delete_channels(model, {"first": [1, 4]}, x)
    with torch.no_grad():
        kept = [0, 2, 3, 5]
        h = model.first(x)[:, kept].cumsum(0)
        torch.testing.assert_close(small(x), h @ model.last.weight[:, kept].T + model.last.bias)


def test_an_unknown_operation_freezes_its_operands_and_is_named():
    found, network = groups(lambda h: torch.linalg.matrix_exp(h[:, None] * h[..., None])[:, 0])
    assert found == {}
    (reason,) = (why for why in network.frozen_for if "linalg_matrix_exp" in why)
    assert "test_dispatch.py" in reason or "in " in reason
