from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import secateurs as sec
from support.traced import check_cut_of_everything, conv, image, trace


def channels_of(network):
    return {group.name: len(group) for group in network.groups}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layer", [nn.Linear, partial(nn.Conv2d, kernel_size=3)])
def test_weight_norm_keeps_the_lengths_of_what_stays(layer, axis):
    """Along the filters a cut is exact; along their inputs the lengths are those of what stays."""
    normed = nn.utils.parametrizations.weight_norm(layer(6, 4), dim=axis)
    model = nn.Sequential(layer(3, 6), nn.ReLU(), normed, nn.ReLU(), layer(4, 2))
    with torch.no_grad():
        normed.parametrizations.weight.original0.uniform_(0.5, 2)
    x = torch.randn(2, 3) if layer is nn.Linear else torch.randn(2, 3, 8, 8)
    network = sec.trace(model, x)
    names = {number: name for name, number in channels_of(network).items()}
    assert sorted(names) == [4, 6]
    small = sec.apply(model, network.cut({names[6]: [0], names[4]: [2]}), x, network=network)
    g, v = (getattr(normed.parametrizations.weight, f"original{i}").detach() for i in range(2))
    v = v[[0, 1, 3]][:, 1:]
    g = g[[0, 1, 3]] if axis == 0 else g[:, 1:]
    others = [at for at in range(v.dim()) if at != axis]
    lengths = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    assert torch.allclose(small[2].weight, g * v / lengths, atol=1e-6)


class Chomp(nn.Module):
    def forward(self, x):
        return x[:, :, :-2]


def plain_and_normed(groups, dim):
    models = []
    for norm in (lambda layer: layer, lambda layer: weight_norm(layer, dim=dim)):
        torch.manual_seed(0)
        middle = norm(nn.Conv1d(16, 24, 3, padding=2, groups=groups))
        layers = nn.Conv1d(4, 16, 1), middle, Chomp(), nn.ReLU(), nn.Conv1d(24, 3, 1)
        models.append(nn.Sequential(*layers).eval())
    return models


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_weight_norm_freezes_nothing(groups, dim):
    plain, normed = plain_and_normed(groups, dim)
    x = torch.randn(2, 4, 20)
    networks = [sec.trace(model, x) for model in (plain, normed)]
    sizes = [sorted(len(group) for group in network.groups) for network in networks]
    assert sizes[0] == sizes[1]
    shapes = []
    for model, network in zip((plain, normed), networks, strict=True):
        cut = network.cut({group.name: range(len(group) // 2) for group in network.groups})
        shapes.append(sec.apply(model, cut, x, network=network)[1].weight.shape)
    assert shapes[0] == shapes[1] == ((12, 8, 3) if groups == 1 else (6, 2, 3))
    if dim == 0 and groups == 1:  # each filter's length is over what it reads: exact for outputs
        only = sec.prune(normed, x, sec.Budget(channels=0.5), skip=("0",))
        plain[1].weight.data.copy_(normed[1].weight)
        plain[1].bias.data.copy_(normed[1].bias)
        with torch.no_grad():
            plain[4].weight[:, list(only.cut.tensors["4.weight"].removed[1])] = 0
            assert torch.allclose(only.model(x), plain(x), atol=1e-5)


def test_group_norm_is_exact_by_whole_groups_and_said_to_be_inexact_inside():
    model, network = trace(
        lambda m, x: m.b(F.relu(m.norm(m.a(x)))),
        a=conv(3, 8),
        norm=nn.GroupNorm(4, 8),
        b=conv(8, 2),
    )
    groups, inside = network.group("a/4x2"), network.group("a/2x4")
    assert groups.inexact == ()
    assert inside.inexact == ("group_norm over channels in norm",)
    whole = sec.apply(model, network.cut({"a/4x2": [1]}), image(), network=network)
    assert (whole.norm.num_groups, whole.norm.num_channels) == (3, 6)
    assert sec.report_of(whole).proof.inexact == ()
    part = sec.apply(model, network.cut({"a/2x4": [1]}), image(), network=network)
    assert (part.norm.num_groups, part.norm.num_channels) == (4, 4)
    assert sec.report_of(part).proof.inexact == ("group_norm over channels in norm",)


def test_layer_norm_is_followed_and_said_to_be_inexact():
    model, network = trace(
        lambda m, x: m.head(m.norm(m.a(x))),
        torch.randn(2, 5, 4),
        a=nn.Linear(4, 6),
        norm=nn.LayerNorm(6),
        head=nn.Linear(6, 2),
    )
    assert network.group("a").inexact == ("layer_norm over channels in norm",)
    small = check_cut_of_everything(model, network, (torch.randn(2, 5, 4),))
    assert small.norm.normalized_shape == (4,)


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_exact(affine):
    model, network = trace(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 6),
        norm=nn.InstanceNorm2d(6, affine=affine),
        b=conv(6, 2),
    )
    assert [group.inexact for group in network.groups] == [()]
    check_cut_of_everything(model, network, image())
