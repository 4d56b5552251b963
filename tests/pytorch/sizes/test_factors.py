"""Factors computed from a size: explained by a power, and compensated in the weights."""

import math

import pytest
import torch
from torch import nn

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
    "a tensor of one number": (
        lambda q, k: q @ k.mT / torch.FloatTensor([q.shape[-1]]).sqrt(),
        (0.5,),
    ),
    "a tensor where the queries are": (
        lambda q, k: q @ k.mT / torch.tensor(q.shape[-1], device=q.device).sqrt(),
        (0.5,),
    ),
    "a tensor like the queries": (
        lambda q, k: q @ k.mT / q.new_tensor(q.shape[-1]).sqrt(),
        (0.5,),
    ),
    "a tensor brought to their type": (
        lambda q, k: q @ k.mT * torch.full((), q.shape[-1] ** -0.5).type_as(q),
        (0.5,),
    ),
    "a table": (
        lambda q, k: q @ k.mT * (torch.linspace(1, 2, 5) / q.shape[-1] ** 0.5),
        (0.5,),
    ),
    "an einsum with dots": (
        lambda q, k: torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5,
        (0.5,),
    ),
    "an einsum": (
        lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5,
        (0.5,),
    ),
}


@pytest.mark.parametrize("name", POWERS)
def test_any_power_of_a_size_is_compensated(name):
    scores, powers = POWERS[name]
    torch.manual_seed(0)
    model = Attention(scores, None).eval()
    network, group = network_and_group(model)
    small = sec.apply(model, network.cut({group: [0, 3, 5]}), X, network=network)
    with torch.no_grad():
        assert torch.allclose(small(X), without(model, [0, 3, 5])(X), atol=1e-6)
    factors = [rescaling.factor for rescaling in sec.report_of(small).cut.rescalings]
    assert sorted(factors) == pytest.approx(sorted([(5 / 8) ** p for p in powers] * 2))


NO_FACTOR = {
    "a logarithm": lambda q, k: q @ k.mT / math.log(q.shape[-1]),
    "a term": lambda q, k: q @ k.mT + q.shape[-1] * torch.eye(5),
    "a whole term": lambda q, k: (q @ k.mT).exp() + q.shape[-1],
    "a whole term in a tensor": lambda q, k: (q @ k.mT).exp() + torch.tensor(q.shape[-1]),
    "a power": lambda q, k: (q @ k.mT).sigmoid() ** q.shape[-1],
    "a bound": lambda q, k: (q @ k.mT).clamp(max=q.shape[-1]),
    "what fills": lambda q, k: (q @ k.mT).masked_fill(torch.eye(5) > 0, 1.0 / q.shape[-1]),
    "a full tensor": lambda q, k: (w := q @ k.mT) + torch.full_like(w, q.shape[-1]) * w.exp(),
}


@pytest.mark.parametrize("name", NO_FACTOR)
def test_a_factor_that_is_no_power_freezes_its_size(name):
    model = Attention(NO_FACTOR[name], None).eval()
    network, _ = network_and_group(model)
    assert "q" not in {member.layer for group in network.groups for member in group.members}


class Stream(nn.Module):
    """Attention on a stream; its factor is of the stream's width by the number of heads."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.heads = scores, 4
        self.i, self.o, self.out = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        x = self.i(x)
        layers = (self.q, self.k, self.v)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        mixed = self.scores(q, k, x.shape[-1] // self.heads).softmax(-1) @ v
        return self.out(x + self.o(mixed.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(
    "scores",
    [
        lambda q, k, size: q @ (k * size**-0.5).mT,
        lambda q, k, size: q @ k.mT / math.sqrt(size),
        lambda q, k, size: torch.baddbmm(
            torch.empty(8, 5, 5), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=size**-0.5
        ).view(2, 4, 5, 5),
    ],
    ids=["keys", "scores", "a product that is added to nothing"],
)
def test_a_width_by_heads_goes_with_what_the_heads_make_together(scores):
    torch.manual_seed(0)
    model = Stream(scores).eval()
    pruned = sec.prune(model, X, sec.Budget(channels=0.5), proof="independent")
    assert pruned.report.params_removed > 0.6


def test_weights_of_both_sides_of_a_product_keep_their_factor():
    class Matched(nn.Module):
        """Both pictures go through one layer: a factor on its weights would come in twice."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(5, 3)

        def forward(self, x):
            first, second = (self.b(self.a(one).relu()) for one in (x, x.flip(0)))
            return self.c(first @ second.mT / math.sqrt(first.shape[-1]))

    torch.manual_seed(0)
    network = sec.trace(Matched().eval(), X)
    assert [group.name for group in network.groups] == ["a"]
    assert any("on weights that are used twice" in r for one in network.frozen for r in one.reasons)
