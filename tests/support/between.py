"""A function of channels between two layers, and the outputs after a cut of some."""

import torch
from torch import nn

import secateurs as sec

GONE = [1, 4, 6]


class Between(nn.Module):
    """``b(function(a(x)))``: the neurons of ``a`` are what ``b`` reads along its last axis."""

    def __init__(self, function, width=8, inputs=5):
        super().__init__()
        self.a, self.b = nn.Linear(inputs, width), nn.Linear(width, 3)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def model_of(function, **sizes):
    torch.manual_seed(0)
    return Between(function, **sizes).eval()


def check(function, x, **sizes):
    """Neurons of ``a`` go, and the answers are the dense model's whose ``b`` does not read them."""
    model = model_of(function, inputs=x.shape[-1], **sizes)
    small = sec.delete_channels(model, {"a": GONE}, x)
    assert small.a.out_features == small.b.in_features == sizes.get("width", 8) - len(GONE)
    with torch.no_grad():
        model.b.weight[:, GONE] = 0
        assert torch.allclose(small(x), model(x), atol=1e-5)


def why_frozen(function, x, **sizes):
    """Why the neurons of ``a`` stay."""
    network = sec.trace(model_of(function, inputs=x.shape[-1], **sizes), x)
    (frozen,) = [one for one in network.frozen if one.name == "a"]
    return " ".join(frozen.reasons)
