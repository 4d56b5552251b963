import pytest
import torch
from torch import nn
from torch.nn import functional as F

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


def reader(read, **layers):
    """A convolution, its channels moved among the positions, a pool over those, a linear layer."""
    return Net(
        lambda m, x: m.b(read(m, m.a(x).relu().permute(0, 3, 1, 2)).mean(3)),
        a=nn.Conv2d(3, 8, 3, padding=1),
        b=nn.Linear(8, 5),
        **layers,
    ).eval()


LEFT_ALONE = {
    "as many results as positions": reader(lambda m, x: F.adaptive_avg_pool2d(x, (None, 1))),
    "as many as the layer says": reader(lambda m, x: m.pool(x), pool=nn.AdaptiveAvgPool2d((8, 1))),
    "windows of one": reader(lambda m, x: F.avg_pool2d(x, (1, 6))),
    "windows and steps of one": reader(lambda m, x: F.max_pool2d(x, (1, 6), stride=(1, 6))),
    "padded elsewhere": reader(lambda m, x: F.avg_pool2d(x, (1, 3), padding=(0, 1))),
    "stretched elsewhere": reader(lambda m, x: F.interpolate(x, scale_factor=(1, 2))),
    "blended elsewhere": reader(
        lambda m, x: F.interpolate(x, size=(x.shape[2], 9), mode="bilinear")
    ),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_pooling_leaves_axes_with_neutral_settings_free(kind):
    model, inputs = LEFT_ALONE[kind], torch.randn(2, 3, 6, 6)
    network = sec.trace(model, inputs)
    assert [len(group) for group in network.groups] == [8]
    small = check_cut_of_everything(model, network, inputs)
    assert small.b.in_features < 8
    sec.prune(model, inputs, sec.Budget(channels=0.5), proof="independent")


CHANGED = {
    "windows over channels": (lambda m, x: F.avg_pool2d(x, (3, 6), padding=(1, 0)), "position"),
    "steps over channels": (lambda m, x: F.max_pool2d(x, (1, 6), stride=(2, 6)), "position"),
    "blended by a factor": (
        lambda m, x: F.interpolate(x, scale_factor=(1.1, 1), mode="bilinear"),
        "position",
    ),
    "blended by a factor of its own": (
        lambda m, x: torch.ops.aten.upsample_bilinear2d(x, [x.shape[2], 12], False, 1.05, 2.0),
        "position",
    ),
    "a number in the code": (lambda m, x: F.adaptive_avg_pool2d(x, (8, 1)), "number 8"),
    "a size in the code": (lambda m, x: F.interpolate(x, size=(8, 12)), "number 8"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_pooling_freezes_the_axes_along_which_it_reads(kind):
    pool, reason = CHANGED[kind]
    model = reader(pool)
    with torch.no_grad():
        rows = pool(model, torch.zeros(1, 6, 8, 6)).shape[2]
    model.b = nn.Linear(rows, 5)
    network = sec.trace(model, torch.randn(2, 3, 6, 6))
    assert not network.groups
    assert any(reason in given for one in network.frozen for given in one.reasons)
