"""Attention by ``F.multi_head_attention_forward``, which a model calls with weights of its own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import secateurs as sec

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


class Layer(nn.Module):
    """Separate projections, and scores to which each head adds a share of a bias."""

    def __init__(self, width, heads):
        super().__init__()
        self.width, self.heads = width, heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.gate = nn.Linear(width // heads, 1)

    def forward(self, x, bias):
        length, batch, _ = x.shape
        gate = self.gate(x.transpose(0, 1).view(batch, length, self.heads, -1)).transpose(1, 2)
        found, _ = functional.multi_head_attention_forward(
            *(x, x, x, self.width, self.heads, torch.empty([0])),
            torch.cat((self.q.bias, self.k.bias, self.v.bias)),
            *(None, None, False, 0.0, self.o.weight, self.o.bias, False),
            attn_mask=gate.reshape(batch * self.heads, -1, 1) * bias,
            use_separate_proj_weight=True,
            q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight,
            v_proj_weight=self.v.weight,
        )
        return x + found


class Speech(nn.Module):
    """Layers that share a bias by distance, repeated for each example, as in WavLM."""

    def __init__(self, width, heads, layers):
        super().__init__()
        self.heads = heads
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        self.bias = nn.Embedding(5, heads)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, x):
        x = self.stem(x).transpose(0, 1)
        length, batch, _ = x.shape
        apart = (torch.arange(length)[:, None] - torch.arange(length)).abs()
        bias = self.bias(apart).permute(2, 0, 1)[None].repeat(batch, 1, 1, 1)
        bias = bias.view(batch * self.heads, length, length)
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(x)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("heads", "layers"), [(2, 2), (3, 1), (3, 2)])
def test_the_stream_and_the_heads_of_a_functional_attention_go_together(heads, layers, batch):
    torch.manual_seed(0)
    model, x = Speech(12, heads, layers).eval(), X[:batch]
    network = sec.trace(model, x)
    name = next(group.name for group in network.groups if len(group) == heads)
    small = sec.apply(model, network.cut({name: [1]}), x, network=network)
    size = 12 // heads
    assert (small.heads, small.stem.out_features) == (heads - 1, 12 - size)
    gone, dense = list(range(size, 2 * size)), copy.deepcopy(model)
    with torch.no_grad():
        for layer in dense.layers:
            for read in (layer.q, layer.k, layer.v, layer.o):
                read.weight[:, gone] = 0
        dense.head.weight[:, gone] = 0
    assert torch.allclose(small(X), dense(X), atol=1e-6)
