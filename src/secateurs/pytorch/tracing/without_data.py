"""Results of operations on tensors without data, where PyTorch's own inference fails.

Packed sequences, for example, need their lengths, which are constants here; fake quantisation
updates a running range as a side effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverloadPacket

aten = torch.ops.aten

Named = dict[str, Any]
"""An operation's arguments by name, of the types in its schema."""


def recurrent_shapes(named: Named) -> object:
    """Results of a recurrent layer over packed sequences."""
    x, weights = named["data"], named["params"]
    states = named["hx"] if isinstance(named["hx"], (list, tuple)) else [named["hx"]]
    width = weights[1].shape[1] * (2 if named["bidirectional"] else 1)
    return (x.new_empty((x.shape[0], width)), *(state.to("meta") for state in states))


def pack(named: Named) -> object:
    """Packed rows of padded sequences, and the batch size at each step."""
    x = named["input"]
    outline = torch.empty((*x.shape[:2], 1))
    rows, sizes = aten._pack_padded_sequence(outline, named["lengths"], named["batch_first"])
    return x.new_empty((rows.shape[0], *x.shape[2:])), sizes


def unpack(named: Named) -> object:
    """Padded sequences, and the length of each."""
    x = named["data"]
    outline = torch.empty((x.shape[0], 1))
    rest = (named["batch_first"], 0.0, named["total_length"])
    whole, lengths = aten._pad_packed_sequence(outline, named["batch_sizes"], *rest)
    return x.new_empty((*whole.shape[:2], *x.shape[1:])), lengths


def quantise(named: Named) -> object:
    """The quantised values, and a mask of those in range."""
    x = named["self"]
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


def multiply_groups(named: Named) -> object:
    """The product of rows with the matrix of their group, of any dtype and width.

    PyTorch's own inference accepts only the dtype that GPUs have a kernel for.
    """
    rows, matrices = named["self"], named["mat2"]
    kind = named.get("out_dtype") or rows.dtype
    if (rows.dim(), matrices.dim()) == (2, 3):
        return rows.new_empty((rows.shape[0], matrices.shape[2]), dtype=kind, device="meta")
    raise NotImplementedError(
        "grouped matrix products other than rows (2-D) by one matrix per group (3-D)"
    )


RECURRENT = (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)

WITHOUT_DATA: dict[OpOverloadPacket, Callable[[Named], object]] = {
    aten._pack_padded_sequence: pack,
    aten._pad_packed_sequence: unpack,
    aten._fused_moving_avg_obs_fq_helper: quantise,
}
if hasattr(aten, "_grouped_mm"):  # PyTorch 2.6 has none
    WITHOUT_DATA[aten._grouped_mm] = multiply_groups


def without_data_of(packet: OpOverloadPacket, named: Named) -> Callable[[Named], object] | None:
    """The function that infers an operation's result; None where PyTorch infers it."""
    if packet in RECURRENT:
        return recurrent_shapes if "batch_sizes" in named else None
    return WITHOUT_DATA.get(packet)
