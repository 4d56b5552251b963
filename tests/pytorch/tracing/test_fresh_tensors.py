"""Writes into new tensors, and constants that follow the tensors they are combined with."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.between import check, model_of, why_frozen

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
PLACES = torch.tensor([0, 2, 5, 1, 1, 4])


def shift(h):
    out = h.new_zeros(7, h.size(1))
    out[1:] = h
    return out


def every_other(h):
    out = torch.zeros(12, h.size(1))
    out[::2] = h
    out[1::2] = 2 * h
    return out


def fill_by_mask(h):
    out = h.new_zeros(12, h.size(1))
    out[torch.arange(12) % 2 == 0] = h
    return out


def empty(h):
    out = torch.empty(6, h.size(1))
    out[:3], out[3:] = h[3:], h[:3]
    return out


def fill_between(h):
    out = torch.zeros(len(h), h.size(1), 2)
    out[:, :, 0] = h
    return out.sum(2)


def canvas(h):
    """Pillars put on a canvas of channels by places."""
    out = torch.zeros(h.size(1), 9)
    out[:, PLACES[:3]] = h[:3].t()
    return out.view(h.size(1), 3, 3).flatten(1).t()


def flat_view(h):
    out = torch.zeros(h.size(1), 3, 2)
    out.view(h.size(1), -1)[:, :6] = h.t()
    return out.flatten(1).t()


def two_views(h):
    out = h.new_zeros(2, 6, h.size(1))
    first, second = out[0], out[1]
    first.copy_(h)
    second.add_(h, alpha=2)
    return first + second + out.sum(0)


def transpose(h):
    out = torch.zeros(h.size(1), 6)
    out.t().copy_(h)
    return out.t()


def messages(h):
    """A graph network: what the neighbours send is added up at each node."""
    return h.new_zeros(4, h.size(1)).index_add_(0, PLACES.clamp(max=3), h)


def scatter(h):
    index = PLACES[:, None].expand(-1, h.size(1))
    return torch.zeros(6, h.size(1)).scatter_add_(0, index, h)


def start_from_ones(h):
    out = torch.ones(6, h.size(1))
    out.mul_(h).add_(1)
    return out


def constants_too(h):
    out = h.new_zeros(7, h.size(1))
    out[0] = 1.0
    out[1:] = h
    out[3] = 0.5
    return out


def add_then_write(h):
    """A state of zeros that is added to first, and written to then."""
    state = torch.zeros(6, h.size(1))
    total = h + state
    state.copy_(h)
    return total + state


def rows_of_a_line(h):
    out = torch.zeros(h.numel())
    out.view(len(h), -1).copy_(h)
    return out.view(len(h), -1)


WRITE = (
    rows_of_a_line,
    shift,
    every_other,
    fill_by_mask,
    empty,
    fill_between,
    canvas,
    flat_view,
    two_views,
    transpose,
    messages,
    scatter,
    start_from_ones,
    constants_too,
    add_then_write,
)


@pytest.mark.parametrize("write", WRITE, ids=lambda write: write.__name__)
def test_what_is_written_keeps_its_channels(write):
    check(write, X)


def test_channels_written_over_numbers_that_differ_stay():
    def over_a_ramp(h):
        out = torch.arange(8.0).repeat(7, 1)
        out[1:] = h
        return out

    assert "overwritten constants differ along this axis, at" in why_frozen(over_a_ramp, X)


def test_channels_written_side_by_side_are_apart():
    """Two layers' channels lie next to each other in one tensor, as in a cat."""

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(5, 4), nn.Linear(12, 3)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            both = x.new_zeros(len(x), a.size(1) + b.size(1))
            both[:, : a.size(1)] = a
            both[:, a.size(1) :] = b
            return self.out(both)

    torch.manual_seed(0)
    model = Beside().eval()
    small = sec.delete_channels(model, {"a": [1, 7], "b": [0]}, X)
    assert small.out.in_features == 9
    with torch.no_grad():
        model.out.weight[:, [1, 7, 8]] = 0
        assert torch.allclose(small(X), model(X), atol=1e-5)


SPREAD = {
    "normalize": lambda h: F.normalize(h, dim=1),
    "expand_as": lambda h: h * h.amax(1, keepdim=True).sigmoid().expand_as(h),
    "expand": lambda h: h * h.amax(1, keepdim=True).sigmoid().expand(-1, h.size(1)),
    "repeat": lambda h: h + h.amax(1, keepdim=True).repeat(1, h.size(1)),
    "tile": lambda h: h + h.amax(1, keepdim=True).tile(h.size(1)),
    "repeat_interleave": lambda h: h + h[:, :0].sum(1, True).repeat_interleave(h.size(1), 1),
    "broadcast_to": lambda h: h * h.amax(1, keepdim=True).broadcast_to(h.shape),
    "stack": lambda h: torch.stack([h, torch.zeros(6, h.size(1))]).sum(0),
    "cat of rows": lambda h: torch.cat([h, torch.ones(2, h.size(1))]),
    "where": lambda h: torch.where(h > 0, h, torch.full((6, h.size(1)), 0.1)),
}


@pytest.mark.parametrize("name", SPREAD)
def test_values_that_are_the_same_along_channels_carry_any(name):
    model = model_of(SPREAD[name])
    small = sec.delete_channels(model, {"a": [1, 4, 6]}, X)
    assert small.a.out_features == small.b.in_features == 5
    kept = [0, 2, 3, 5, 7]
    with torch.no_grad():  # by hand: the function of the channels that are left
        h = X @ model.a.weight[kept].T + model.a.bias[kept]
        expected = SPREAD[name](h) @ model.b.weight[:, kept].T + model.b.bias
        assert torch.allclose(small(X), expected, atol=1e-5)


class Padded(nn.Module):
    """Channels of zeros put beside those of a layer, as many as an attribute says."""

    def __init__(self):
        super().__init__()
        self.more = 4
        self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.out(torch.cat([self.a(x), torch.zeros(len(x), self.more)], 1) + self.b(x))


def test_zeros_beside_channels_go_too_and_their_number_follows():
    torch.manual_seed(0)
    model = Padded().eval()
    small = sec.delete_channels(model, {"b": [1, 9, 10]}, X)
    assert (small.a.out_features, small.more, small.out.in_features) == (7, 2, 9)
    with torch.no_grad():
        model.out.weight[:, [1, 9, 10]] = 0
        assert torch.allclose(small(X), model(X), atol=1e-5)


class Cell(nn.Module):
    """A convolutional recurrent cell whose states are zeros at first."""

    def __init__(self, cat):
        super().__init__()
        self.hidden, self.cat = 6, cat
        self.x = nn.Conv2d(3 + 6 * cat, 24, 3, padding=1)
        self.h, self.out = nn.Conv2d(6, 24, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        h = c = torch.zeros(x.size(0), self.hidden, *x.shape[3:])
        for t in range(x.size(1)):
            gates = self.x(torch.cat([x[:, t], h], 1)) if self.cat else self.x(x[:, t]) + self.h(h)
            i, f, o, g = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


@pytest.mark.parametrize("cat", [True, False])
def test_a_state_of_zeros_has_as_many_channels_as_are_left(cat):
    torch.manual_seed(0)
    model, x = Cell(cat).eval(), torch.randn(2, 3, 3, 4, 4)
    pruned = sec.prune(model, x, sec.Budget(channels=0.5))
    gone = list(pruned.cut.tensors["out.weight"].removed[1])
    assert (len(gone), pruned.model.hidden) == (3, 3)
    with torch.no_grad():
        model.out.weight[:, gone] = 0
        model.h.weight[:, gone] = 0
        if cat:
            model.x.weight[:, [3 + channel for channel in gone]] = 0
        assert torch.allclose(pruned.model(x), model(x), atol=1e-5)


def test_a_canvas_of_the_wrong_size_that_is_written_into_is_found_by_what_is_done_in_its_place():
    """A Fourier neural operator: ``canvas[:, :, :modes] = ...`` looks at a value that does not fit
    in other ways before it raises; the canvas is made by an attribute that follows."""

    class Spectral(nn.Module):
        def __init__(self, width=16, modes=4):
            super().__init__()
            self.width, self.modes = width, modes
            self.lift, self.out = nn.Linear(2, width), nn.Linear(width, 1)
            values = 0.05 * torch.randn(width, width, modes, dtype=torch.cfloat)
            self.weights = nn.Parameter(values)

        def forward(self, x):
            x = self.lift(x).permute(0, 2, 1)
            spectrum = torch.fft.rfft(x)
            canvas = torch.zeros(len(x), self.width, spectrum.shape[-1], dtype=torch.cfloat)
            mixed = torch.einsum("bix,iox->box", spectrum[:, :, : self.modes], self.weights)
            canvas[:, :, : self.modes] = mixed
            y = torch.fft.irfft(canvas, n=x.shape[-1])
            return self.out((x + y).permute(0, 2, 1))

    torch.manual_seed(0)
    model, x = Spectral().eval(), torch.randn(1, 20, 2)
    network = sec.trace(model, x)
    small = sec.apply(model, network.cut({"lift": range(8)}), x, network=network)
    assert small.weights.shape == (8, 8, 4)
    assert small.width == 8
    with torch.no_grad():
        model.weights[:8] = 0
        model.out.weight[:, :8] = 0
        torch.testing.assert_close(small(x), model(x))


KERNELS = {
    "expanded": lambda h: (torch.ones(1, 1, 3, 3) / 9).expand(h.shape[1], 1, 3, 3),
    "repeated": lambda h: (torch.arange(9.0).view(3, 3) / 9).repeat(h.size(1), 1, 1, 1),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_constant_kernel_of_each_channel_has_as_many_as_are_left(name):
    """A blur, as filters against aliasing and measures of likeness have it."""

    class Blurred(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            h = self.a(x).relu()
            return self.b(nn.functional.conv2d(h, KERNELS[name](h), groups=h.shape[1], padding=1))

    torch.manual_seed(0)
    model, x = Blurred().eval(), torch.rand(2, 3, 5, 5)
    small = sec.delete_channels(model, {"a": [1, 4, 6]}, x)
    with torch.no_grad():
        model.b.weight[:, [1, 4, 6]] = 0
        assert torch.allclose(small(x), model(x), atol=1e-6)
