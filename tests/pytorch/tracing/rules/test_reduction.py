import pytest
from torch.nn import functional as F

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


@pytest.mark.parametrize(
    "loss", [F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits]
)
def test_a_loss_inside_the_network_carries_channels_and_says_that_it_mixes_them(loss):
    """As a quantised autoencoder gives its commitment beside its answer."""
    modules = {"a": conv(3, 6), "c": conv(3, 6), "b": conv(6, 2)}
    model, network = trace(lambda m, x: m.b(m.a(x) + m.c(x)) + loss(m.a(x), m.c(x)), **modules)
    assert f"{loss.__name__} over channels" in network.group("a").inexact[0]
    check_cut_of_everything(model, network, image())


def test_a_loss_of_each_element_is_element_by_element():
    modules = {"a": conv(3, 6), "c": conv(3, 6), "b": conv(6, 2)}
    model, network = trace(
        lambda m, x: m.b(F.mse_loss(m.a(x), m.c(x), reduction="none")), **modules
    )
    assert network.group("a").inexact == ()
    check_cut_of_everything(model, network, image())
