"""Shapes and dtypes inferred without PyTorch equal those that PyTorch infers."""

import pytest
import torch

from secateurs.pytorch.tracing.op_call import Call
from secateurs.pytorch.tracing.shape_inference import empty, infer, per_axis

aten = torch.ops.aten
IMAGES = torch.randn(2, 6, 9, 8)
CALLS = {
    "relu": (aten.relu.default, (IMAGES,)),
    "broadcast": (aten.add.Tensor, (IMAGES, torch.randn(2, 6, 1, 1))),
    "linear": (aten.linear.default, (torch.randn(2, 5), torch.randn(4, 5), torch.randn(4))),
    "convolution": (
        aten.conv2d.default,
        (IMAGES, torch.randn(4, 3, 3, 2), None, [2, 1], [1, 0], [1, 2], 2),
    ),
    "layer norm": (aten.layer_norm.default, (IMAGES, [8], torch.ones(8))),
    "mean": (aten.mean.dim, (IMAGES, [2, 3], True)),
    "pool": (aten.adaptive_avg_pool2d.default, (IMAGES, [3, 2])),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_inferred_is_what_pytorch_gives(name):
    function, arguments = CALLS[name]
    expected = function(*arguments)
    outlines = tuple(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments)
    call = Call(function, outlines, {})
    found = infer(call.packet, call.named)
    assert found is not None
    assert (found.shape, found.dtype, found.is_meta) == (expected.shape, expected.dtype, True)
    assert found.is_contiguous() == expected.is_contiguous()


def test_what_is_not_known_is_left_to_pytorch():
    assert infer(aten.sort, {"self": IMAGES.to("meta")}) is None
    integers = Call(aten.relu.default, (torch.ones(3, dtype=torch.int64, device="meta"),), {})
    assert infer(integers.packet, integers.named) is None


def test_one_number_stands_for_every_axis():
    assert list(per_axis(2, 3)) == [2, 2, 2]
    assert list(per_axis([1, 2], 2)) == [1, 2]
    made = empty([2, 3], torch.zeros(1, dtype=torch.float64))
    assert (made.shape, made.dtype, made.is_meta) == ((2, 3), torch.float64, True)


RECURRENT = {
    "LSTM": (torch.nn.LSTM(5, 6), aten.lstm),
    "both ways, two layers": (torch.nn.LSTM(5, 6, 2, bidirectional=True), aten.lstm),
    "images first": (torch.nn.LSTM(5, 6, batch_first=True), aten.lstm),
    "projected": (torch.nn.LSTM(5, 6, 2, proj_size=3), aten.lstm),
    "GRU": (torch.nn.GRU(5, 6, 2, bias=False, batch_first=True), aten.gru),
    "plain": (torch.nn.RNN(5, 6, nonlinearity="relu"), aten.rnn_relu),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_inferred_without_their_steps(name):
    layer, packet = RECURRENT[name]
    with torch.no_grad():
        output, last = layer(torch.randn(2, 7, 5))
    states = list(last) if isinstance(last, tuple) else [last]
    named = {
        "input": torch.empty(2, 7, 5, device="meta"),
        "hx": [torch.zeros(state.shape) for state in states],  # real ones, as layers make them
        "params": [weight.to("meta") for weight in layer._flat_weights],
        "has_biases": layer.bias,
        "num_layers": layer.num_layers,
        "bidirectional": layer.bidirectional,
        "batch_first": layer.batch_first,
    }
    found = infer(packet, named)
    assert [(t.shape, t.stride(), t.dtype, t.is_meta) for t in found] == [
        (t.shape, t.stride(), t.dtype, True) for t in (output, *states)
    ]
    narrower = {"input": torch.empty(2, 7, 4, device="meta")}
    shorter = {"params": [weight[:-1] for weight in named["params"]]}
    stateless = {"hx": [state[:, :-1] for state in named["hx"]]}
    for wrong in (narrower, shorter, stateless):
        assert infer(packet, named | wrong) is None
