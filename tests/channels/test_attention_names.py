"""Sides of attention's grids are named by what they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec


class Attention(nn.Module):
    """``heads`` of ``width``, whose keys and values are shared by ``shared`` heads each."""

    def __init__(self, heads=6, width=4, shared=1):
        super().__init__()
        self.heads, self.width, self.shared = heads, width, shared
        self.q = nn.Linear(5, heads * width)
        self.k = nn.Linear(5, heads // shared * width)
        self.v = nn.Linear(5, heads // shared * width)
        self.o = nn.Linear(heads * width, 5)

    def forward(self, x):
        q, k, v = (
            part(x).view(len(x), x.shape[1], -1, self.width).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        k, v = (one[:, :, None].expand(-1, -1, self.shared, -1, -1).flatten(1, 2) for one in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).flatten(2))


def groups_with(shared):
    torch.manual_seed(0)
    network = sec.trace(Attention(shared=shared).eval(), torch.randn(1, 3, 5))
    return {group.name: len(group) for group in network.groups}


def test_heads_and_positions_in_them_are_told_apart():
    """One number of the model's own is the width of queries, keys and values alike."""
    assert groups_with(shared=1) == {"q.heads": 6, "q.head_width": 4}


@pytest.mark.parametrize("shared", [2, 3])
def test_shared_keys_give_groups_of_heads_a_name(shared):
    found = groups_with(shared)
    assert found["q.key_value_groups"] == 6 // shared
    assert found["q.heads_per_group"] == shared


def test_a_product_with_a_weight_is_no_attention():
    """Groups of a grouped convolution make such a grid, too."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1))
    names = [group.name for group in sec.trace(model.eval(), torch.randn(1, 3, 5, 5)).groups]
    assert names
    assert not any("head" in name for name in names)


def test_a_name_that_a_layer_has_is_not_taken():
    class Named(Attention):
        def __init__(self):
            super().__init__()
            self.q.heads = nn.Linear(5, 5)

        def forward(self, x):
            return super().forward(self.q.heads(x))

    names = [group.name for group in sec.trace(Named().eval(), torch.randn(1, 3, 5)).groups]
    assert "q.heads" in names  # the layer's own channels
    assert names.count("q.heads") == 1
    assert any(name.startswith("q/") for name in names)
