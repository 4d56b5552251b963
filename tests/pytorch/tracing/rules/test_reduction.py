import pytest

from support.traced import check_cut_of_everything, conv, image, trace


@pytest.mark.read_without_weights
def test_a_sum_over_channels_ignores_what_is_removed():
    model, network = trace(
        lambda m, x: m.b(m.a(x) * m.c(x).square().sum(1, keepdim=True)),
        a=conv(3, 4),
        c=conv(3, 6),
        b=conv(4, 2),
    )
    assert network.group("c").inexact == ()
    check_cut_of_everything(model, network, image())


def test_a_mean_over_channels_is_said_to_be_inexact():
    _, network = trace(
        lambda m, x: m.b(m.a(x) * m.c(x).mean(1, keepdim=True)),
        a=conv(3, 4),
        c=conv(3, 6),
        b=conv(4, 2),
    )
    assert "mean over channels" in network.group("c").inexact[0]
    assert network.group("a").inexact == ()
