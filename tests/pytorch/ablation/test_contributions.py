"""A channel's contribution to a linear operation, against running it without the channel."""

import pytest
import torch
from torch.nn import functional as F

from secateurs.pytorch.ablation import contributions
from secateurs.pytorch.ablation.downstream import channels_last
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call

IMAGES = torch.tensor([0, 2, 2, 1, 0, 1])
CONVOLUTIONS = [
    (aten.conv2d.default, (8, 4, 3, 3), (5, 6), {}),
    (aten.conv2d.default, (20, 4, 3, 2), (7, 6), {"stride": [2, 1], "padding": [1, 2]}),
    (aten.conv2d.default, (20, 4, 2, 3), (9, 8), {"dilation": [2, 3], "padding": [2]}),
    (aten.conv2d.default, (8, 4, 1, 1), (3, 3), {"stride": [2, 2]}),
    (aten.conv2d.default, (4, 4, 3, 3), (5, 5), {"padding": [1, 1]}),  # fewer outputs than taps
    (aten.conv2d.padding, (20, 4, 3, 3), (5, 5), {"padding": "same"}),
    (aten.conv1d.default, (9, 4, 3), (7,), {"stride": [2], "padding": [1]}),
    (aten.conv3d.default, (20, 4, 2, 1, 3), (3, 4, 5), {"padding": [1, 0, 1]}),
]


@pytest.mark.parametrize("long", [1, contributions.LONG])
@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize(("function", "shape", "space", "options"), CONVOLUTIONS)
def test_of_a_convolution(function, shape, space, options, each, long, monkeypatch):
    monkeypatch.setattr(contributions, "LONG", long)
    torch.manual_seed(0)
    x = channels_last(torch.randn(3, shape[1], *space))
    weight = torch.randn(shape)
    bias = torch.randn(len(weight))
    index = torch.tensor([[0, 3], [0, 3], [0, 3], [1, 2], [1, 2], [2, 0]])[:, :each]
    call = Call(function, (), {"input": x, "weight": weight, "bias": bias} | options)
    output = channels_last(call.run()[IMAGES])
    without = x[IMAGES].clone()
    for pair, channels in enumerate(index):
        without[pair, channels] = 0
    expected = call.with_arguments(input=without).run()
    contributions.subtract_(output, call, x, IMAGES, index)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("space", [(), (5,)])
def test_of_a_matrix_product(space, each):
    torch.manual_seed(0)
    x, weight = torch.randn(3, *space, 4), torch.randn(7, 4)
    index = torch.tensor([[0, 3], [0, 3], [0, 3], [1, 2], [1, 2], [2, 0]])[:, :each]
    without = x[IMAGES].clone()
    for pair, channels in enumerate(index):
        without[pair, ..., channels] = 0
    output = F.linear(x, weight)[IMAGES]
    contributions.subtract_(output, Call(aten.linear.default, (x, weight), {}), x, IMAGES, index)
    torch.testing.assert_close(output, F.linear(without, weight), atol=1e-5, rtol=1e-5)
    if not space:
        output = (x @ weight.T)[IMAGES]
        contributions.subtract_(output, Call(aten.mm.default, (x, weight.T), {}), x, IMAGES, index)
        torch.testing.assert_close(output, F.linear(without, weight), atol=1e-5, rtol=1e-5)


def test_small_kernels_are_one_batch_of_products(monkeypatch):
    calls = []
    monkeypatch.setattr(contributions, "summand", lambda *given: calls.append(given) or 0)
    for function, shape, space, options in CONVOLUTIONS[:6]:
        x, weight = channels_last(torch.randn(3, shape[1], *space)), torch.randn(shape)
        call = Call(function, (), {"input": x, "weight": weight} | options)
        output = channels_last(call.run()[IMAGES])
        before = len(calls)
        contributions.subtract_(
            output, call, x, IMAGES, torch.tensor([[0], [0], [1], [2], [2], [3]])
        )
        slow = shape[0] < weight[0, 0].numel() or options.get("padding") == "same"
        assert len(calls) - before == (4 if slow else 0)
