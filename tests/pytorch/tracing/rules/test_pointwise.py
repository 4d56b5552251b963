import torch
from torch.nn import functional as F

from support.traced import check_cut_of_everything, conv, groups_of, image, trace


def test_squeeze_and_excitation():
    model, network = trace(
        lambda m, x: m.b(
            m.a(x) * torch.sigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(m.a(x), 1)))))
        ),
        a=conv(3, 8),
        down=conv(8, 3, 1),
        up=conv(3, 8, 1),
        b=conv(8, 2),
    )
    assert {name: count for name, (count, _) in groups_of(network).items()} == {"a": 8, "down": 3}
    check_cut_of_everything(model, network, image())


def test_softmax_over_channels_freezes_them():
    _, network = trace(lambda m, x: m.b(m.a(x).softmax(1)), a=conv(3, 4), b=conv(4, 2))
    assert network.groups == ()
