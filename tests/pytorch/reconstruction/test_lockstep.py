"""Where redundancy is exact, repair restores the outputs; elsewhere, least squares by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec


def images(*shape, count=96):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def twins(layer, one=0, other=3, axis=0):
    """Let two filters of a layer be the same."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.select(axis, other).copy_(tensor.select(axis, one))


class Chain(nn.Module):
    """A producer whose filter 3 is its filter 0 again, and what reads it."""

    def __init__(self, *layers):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*layers)
        self.layers.apply(_draw_moments_)
        twins(self.layers[0])

    def forward(self, x):
        return self.layers(x)


def _draw_moments_(module):
    """Batch norm as after some training, not as it is born."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)


def tail(channels):
    return nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5)


CHAINS = {
    "linear": lambda: (Chain(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5)), (7,)),
    "without a bias": lambda: (
        Chain(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5, bias=False)),
        (7,),
    ),
    "sequence": lambda: (Chain(nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 5)), (4, 7)),
    "batch norm": lambda: (
        Chain(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            *tail(6),
        ),
        (3, 9, 9),
    ),
    "stride, dilation": lambda: (
        Chain(
            nn.Conv2d(3, 8, 3),
            nn.SiLU(),
            nn.Conv2d(8, 6, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 2)),
            *tail(6),
        ),
        (3, 9, 9),
    ),
    "same padding": lambda: (
        Chain(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 6, 4, padding="same"), *tail(6)),
        (3, 9, 9),
    ),
    "transposed": lambda: (
        Chain(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1),
            *tail(6),
        ),
        (3, 7, 7),
    ),
    "transposed, overlapping": lambda: (
        Chain(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, (4, 3), stride=(2, 3), dilation=(1, 2), padding=(0, 2)),
            *tail(6),
        ),
        (3, 7, 7),
    ),
    "flatten": lambda: (
        Chain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5)),
        (3, 5, 5),
    ),
    "one dimension": lambda: (
        Chain(
            nn.Conv1d(3, 8, 3),
            nn.ReLU(),
            nn.Conv1d(8, 6, 5, stride=2, padding=2),
            nn.Flatten(),
            nn.Linear(18, 5),
        ),
        (3, 8),
    ),
    "three dimensions": lambda: (
        Chain(
            nn.Conv3d(2, 6, 2),
            nn.ReLU(),
            nn.Conv3d(6, 4, 2, stride=(1, 2, 1)),
            nn.Flatten(),
            nn.Linear(4 * 3 * 1 * 3, 5),
        ),
        (2, 5, 4, 5),
    ),
}


def after_repair(model, data, channels):
    """(the answers of the dense, the cut and the repaired model)."""
    model.eval()
    cut = sec.delete_channels(model, channels, data[:1])
    repaired = sec.repair(cut, model, data)
    with torch.no_grad():
        return model(data), cut(data), repaired(data)


@pytest.mark.parametrize("name", CHAINS)
def test_removing_a_duplicate_channel_changes_no_output(name):
    model, shape = CHAINS[name]()
    dense, cut, repaired = after_repair(model, images(*shape), {"layers.0": [3]})
    scale = dense.abs().max()
    assert (cut - dense).abs().max() > 1e-2 * scale
    assert (repaired - dense).abs().max() < 1e-4 * scale


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)
        nn.init.ones_(self.depth.bias)  # nothing is dead
        twins(self.first)
        twins(self.depth)

    def forward(self, x):
        x = F.relu6(self.depth(F.relu6(self.first(x))))
        return self.head(F.relu(self.point(x)).mean((2, 3)))


class Grouped(nn.Module):
    """Each group of the second convolution reads four channels, of which the last is the first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 6, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)
        twins(self.first)
        twins(self.first, 4, 7)

    def forward(self, x):
        return self.head(self.norm(self.second(self.first(x).relu())).relu().mean((2, 3)))


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1)
        self.joint = nn.Conv2d(12, 6, 3)
        self.head = nn.Linear(6, 5)
        twins(self.first)

    def forward(self, x):
        both = torch.cat([self.other(x), self.first(x).relu()], 1)
        return self.head(self.joint(both).relu().mean((2, 3)))


class Stream(nn.Module):
    """A residual stream that is read and written several times; its channel 3 is its channel 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.inner = nn.ModuleList(nn.Conv2d(8, 5, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(5, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.head = nn.Linear(8, 5)
        twins(self.stem)
        for layer in self.outer:
            twins(layer)

    def forward(self, x):
        x = self.stem(x).relu()
        for inner, outer, norm in zip(self.inner, self.outer, self.norms, strict=True):
            x = (norm(outer(inner(x).relu())) + x).relu()
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = nn.Linear(6, 8), nn.Linear(6, 8)
        self.down = nn.Linear(8, 6, bias=False)
        twins(self.gate)
        twins(self.up)

    def forward(self, x):
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Two heads that are the same: one of them can go."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 8)
        with torch.no_grad():
            for layer in (self.query, self.key, self.value):
                layer.weight[4:] = layer.weight[:4]
                layer.bias[4:] = layer.bias[:4]

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (-1, 4)).transpose(1, 2)

        y = F.scaled_dot_product_attention(
            heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        )
        return x + self.out(y.transpose(1, 2).flatten(2))


class Columns(nn.Module):
    """A linear layer whose weight is (inputs, outputs), as GPT-2 has it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))
        twins(self.first)

    def forward(self, x):
        return torch.addmm(self.bias, self.first(x).tanh(), self.weight)


OTHERS = {
    "depthwise": (Depthwise, (3, 6, 6), {"first": [3]}),
    "grouped": (Grouped, (3, 6, 6), {"first": [3, 7]}),
    "concatenated": (Concatenated, (3, 6, 6), {"first": [3]}),
    "residual stream": (Stream, (3, 6, 6), {"stem": [3]}),
    "gated": (Gated, (4, 6), {"up": [3]}),
    "attention": (Attention, (5, 8), {"value": [4, 5, 6, 7]}),
    "columns": (Columns, (6,), {"first": [3]}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_removing_a_duplicate_channel_changes_no_output_in_other_networks(name):
    build, shape, channels = OTHERS[name]
    dense, cut, repaired = after_repair(build(), images(*shape), channels)
    scale = dense.abs().max()
    assert (cut - dense).abs().max() > 1e-2 * scale
    assert (repaired - dense).abs().max() < 1e-3 * scale


class Normed(nn.Module):
    """A stream with layer norms before its blocks, as transformers have it."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(6, 16)
        self.norms = nn.ModuleList(norm(16) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(16, 24) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(24, 16) for _ in range(2))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            x = x + self.drop(down(F.gelu(up(norm(x)))))
        return self.head(self.norms[2](x))


def relative(found, right):
    return float((found - right).square().sum() / (right - right.mean(0)).square().sum())


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_compensate_for_channels_that_they_no_longer_average(norm):
    model, data = Normed(norm), images(4, 6, count=256)
    dense, cut, repaired = after_repair(model, data, {"embed": [1, 5, 9]})
    assert relative(repaired, dense) < 0.25 * relative(cut, dense)


def test_the_small_weights_are_what_numpy_finds():
    """One linear layer behind another: ridge least squares with the ridge that was chosen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    data = images(6, count=200)
    cut = sec.delete_channels(model, {"0": [2, 5]}, data[:1])
    repaired = sec.repair(cut, model, data)
    report = sec.report_of(repaired).fidelity
    (layer,) = report.layers
    assert (layer.weight, layer.inputs) == ("2.weight", 6)
    assert layer.after < layer.before
    # By hand: all images but those that judge, which no weight has seen.
    order = np.random.default_rng(0).permutation(200)
    fitted = data.numpy()[np.sort(order[25:])]
    with torch.no_grad():
        u = np.delete(model[:2](torch.from_numpy(fitted)).double().numpy(), [2, 5], axis=1)
        y = model(torch.from_numpy(fitted)).double().numpy()
    present = np.delete(model[2].weight.detach().double().numpy(), [2, 5], axis=1).T
    centred, goal = u - u.mean(0), y - y.mean(0)
    size = np.square(centred).mean() * len(u)  # the mean variance, times the rows
    stacked = np.vstack([centred, np.sqrt(layer.ridge * size) * np.eye(6)])
    targets = np.vstack([goal, np.sqrt(layer.ridge * size) * present])
    weights = np.linalg.lstsq(stacked, targets, rcond=None)[0]
    np.testing.assert_allclose(repaired[2].weight.detach().numpy().T, weights, atol=2e-5)
    intercept = y.mean(0) - u.mean(0) @ weights
    np.testing.assert_allclose(repaired[2].bias.detach().numpy(), intercept, atol=2e-5)


def test_models_stay_as_they_are_and_modes_come_back():
    model, data = Normed(), images(4, 6)
    cut = sec.delete_channels(model, {"up.0": [0, 1, 2]}, data[:1])
    model.train()
    cut.train()
    before = [copy.deepcopy(one.state_dict()) for one in (model, cut)]
    repaired = sec.repair(cut, model, data)
    assert model.training
    assert cut.training
    assert repaired.training
    for one, state in zip((model, cut), before, strict=True):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, state[name]), name
    # Dropout took no part.
    again = sec.repair(cut.eval(), model.eval(), data)
    assert torch.equal(repaired.up[1].weight, again.up[1].weight)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_double(kind):
    model, data = Stream().to(kind).eval(), images(3, 6, 6).to(kind)
    cut = sec.delete_channels(model, {"stem": [3]}, data[:1])
    repaired = sec.repair(cut, model, data)
    assert repaired.stem.weight.dtype is kind
    with torch.no_grad():
        right, found = model(data).float(), repaired(data).float()
    assert (found - right).abs().max() < 0.02 * right.abs().max()


def test_a_model_with_two_named_inputs_is_repaired():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)
            twins(self.left)
            twins(self.right)

        def forward(self, one, other):
            return {"scores": self.head((self.left(one) + self.right(other)).tanh())}

    model = Two().eval()
    data = {"one": images(6), "other": images(4)}
    cut = sec.delete_channels(model, {"left": [3]}, {key: x[:1] for key, x in data.items()})
    repaired = sec.repair(cut, model, data)
    with torch.no_grad():
        right, found = model(**data)["scores"], repaired(**data)["scores"]
    assert (found - right).abs().max() < 1e-4 * right.abs().max()


def test_a_weight_that_is_used_twice_is_left_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.second(self.second(self.first(x)).tanh()))

    model, data = Tied().eval(), images(6)
    cut = sec.delete_channels(model, {"first": [3]}, data[:1])
    repaired = sec.repair(cut, model, data)
    assert torch.equal(repaired.second.weight, cut.second.weight)
    assert not torch.equal(repaired.head.weight, cut.head.weight)


def test_only_the_frontier_is_held():
    """Forty layers one after the other: two values of either network at a time, not forty."""
    layers = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(39):
        layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    data = images(3, 8, 8, count=80)
    cut = sec.delete_channels(model, {"0": [0]}, data[:1])
    repaired = sec.repair(cut, model, data)
    value = 70 * 8 * 8 * 8 * 4  # bytes of one layer's values, of the images that are fitted
    assert value < sec.report_of(repaired).fidelity.peak_bytes <= 4 * value


def test_memory_bounds_how_many_images_are_fitted(monkeypatch):
    from secateurs.reconstruction import refitting

    model, data = Stream().eval(), images(3, 6, 6, count=200)
    cut = sec.delete_channels(model, {"stem": [3]}, data[:1])
    whole = sec.report_of(sec.repair(cut, model, data)).fidelity.peak_bytes
    monkeypatch.setattr(refitting, "MOST_BYTES", whole // 2)
    with pytest.warns(UserWarning, match=r"the activations of 175 images need .* GB"):
        repaired = sec.repair(cut, model, data)
    assert sec.report_of(repaired).fidelity.peak_bytes <= whole // 2
    with torch.no_grad():
        right, found = model(data), repaired(data)
    assert (found - right).abs().max() < 1e-3 * right.abs().max()


def test_another_network_is_refused():
    data = images(6)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    cut = sec.delete_channels(other, {"0": [3]}, data[:1])
    with pytest.raises(sec.ModelError, match="has others in their place"):
        sec.repair(cut, model, data)
