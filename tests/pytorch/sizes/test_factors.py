"""Numbers computed from a size: explained by a power, and put right in the weights."""

import math

import pytest
import torch

import secateurs as sec
from support.written_attention import Attention, X, network_and_group, without

POWERS = {
    "a fourth root of each": (
        lambda q, k: (q * q.shape[-1] ** -0.25) @ (k * k.shape[-1] ** -0.25).mT,
        (0.25, 0.25),
    ),
    "a cube root": (lambda q, k: q @ k.mT * q.shape[-1] ** (-1 / 3), (1 / 3,)),
    "an odd power": (lambda q, k: q @ k.mT / q.shape[-1] ** 0.3, (0.3,)),
    "a square": (lambda q, k: q @ k.mT / q.shape[-1] ** 2, (2,)),
    "an einsum": (
        lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5,
        (0.5,),
    ),
}


@pytest.mark.parametrize("name", POWERS)
def test_any_power_of_a_size_is_put_right(name):
    scores, powers = POWERS[name]
    torch.manual_seed(0)
    model = Attention(scores, None).eval()
    network, group = network_and_group(model)
    small = sec.apply(model, network.cut({group: [0, 3, 5]}), X, network=network)
    with torch.no_grad():
        assert torch.allclose(small(X), without(model, [0, 3, 5])(X), atol=1e-6)
    factors = [rescaling.factor for rescaling in sec.report_of(small).cut.rescalings]
    assert sorted(factors) == pytest.approx(sorted([(5 / 8) ** p for p in powers] * 2))


def test_what_is_no_power_of_a_size_keeps_it():
    model = Attention(lambda q, k: q @ k.mT / math.log(q.shape[-1]), None).eval()
    network, _ = network_and_group(model)
    assert "q" not in {member.layer for group in network.groups for member in group.members}
