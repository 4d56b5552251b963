"""Shapes inferred without data are those with data."""

import pytest
import torch
from torch import nn

from secateurs.pytorch.tracing.without_data import (
    multiply_groups,
    pack,
    quantise,
    recurrent_shapes,
    unpack,
    without_data_of,
)

aten = torch.ops.aten
LENGTHS = torch.tensor([4, 2, 1])


def shapes(values):
    return [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]


def test_sequences_are_packed_and_padded_again():
    x = torch.randn(3, 4, 5)
    rows, sizes = aten._pack_padded_sequence(x, LENGTHS, True)
    named = {"input": x.to("meta"), "lengths": LENGTHS, "batch_first": True}
    found = pack(named)
    assert shapes(found) == shapes((rows, sizes))
    assert found[0].is_meta
    assert torch.equal(found[1], sizes)  # how many go on at each step is a constant
    back = {"data": rows.to("meta"), "batch_sizes": sizes, "batch_first": True, "total_length": 4}
    whole, lengths = aten._pad_packed_sequence(rows, sizes, True, 0.0, 4)
    assert shapes(unpack(back)) == shapes((whole, lengths))
    assert torch.equal(unpack(back)[1], LENGTHS)


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_over_packed_sequences(kind, both_ways):
    layer = kind(5, 7, bidirectional=both_ways, batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 4, 5), LENGTHS, batch_first=True)
    output, states = layer(packed)
    states = states if isinstance(states, tuple) else (states,)
    named = {
        "data": packed.data.to("meta"),
        "params": [p.to("meta") for p in layer.parameters()],
        "hx": [s.to("meta") for s in states] if kind is nn.LSTM else states[0].to("meta"),
        "bidirectional": both_ways,
    }
    assert shapes(recurrent_shapes(named)) == shapes((output.data, *states))


def test_groups_of_rows_and_ranges():
    named = {"self": torch.empty(9, 5, device="meta"), "mat2": torch.empty(3, 5, 4, device="meta")}
    made = multiply_groups({**named, "out_dtype": torch.bfloat16})
    assert (tuple(made.shape), made.dtype, made.is_meta) == ((9, 4), torch.bfloat16, True)
    with pytest.raises(NotImplementedError):
        multiply_groups({"self": named["mat2"], "mat2": named["mat2"]})
    values, inside = quantise({"self": torch.empty(2, 3, device="meta")})
    assert (values.dtype, inside.dtype, inside.is_meta) == (torch.float32, torch.bool, True)


def test_what_pytorch_can_tell_is_left_to_it():
    assert without_data_of(aten.add, {}) is None
    assert without_data_of(aten.lstm, {"input": 1}) is None
    assert without_data_of(aten.lstm, {"batch_sizes": 1}) is recurrent_shapes
    if hasattr(aten, "_grouped_mm"):  # PyTorch 2.6 has none
        assert without_data_of(aten._grouped_mm, {}) is multiply_groups
