"""Stand-ins: what a traced pass runs on in place of the tensors of a model.

Weights, which may carry channels, are replaced by tensors without data. Buffers of integers and
booleans keep their values, since code looks things up by them; where a pass writes into one, a copy
is written into instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.fresh_tensors import FreshTensors
from secateurs.pytorch.tracing.op_call import is_plain, without_data
from secateurs.pytorch.tracing.op_record import Labels, follow


class StandIns:
    """The stand-ins of one pass after the other.

    Args:
        leaves: tensors of the model.
        fresh: memory that the pass itself allocates, which has stand-ins too once it is written
            into.
        is_concrete: whether stand-ins have values.

    Attributes:
        leaves: id of a tensor of the model -> that tensor.
    """

    def __init__(
        self, leaves: Sequence[ModelTensor], fresh: FreshTensors, is_concrete: bool
    ) -> None:
        self.leaves = {id(leaf.tensor): leaf for leaf in leaves}
        self._fresh = fresh
        self._is_concrete = is_concrete
        self._made: dict[int, torch.Tensor] = {}
        self._outlines: dict[int, torch.Tensor] = {}
        """Tensors without data, by id of the weight, that are to stand in for it in this pass."""
        self._buffers: dict[int, ModelTensor] = {}

    def start_pass(self) -> None:
        """Begin another forward pass, with other stand-ins."""
        self._made = {}
        # Created outside inference mode, since views of weights have to be ordinary tensors.
        self._outlines = {
            id(leaf.tensor): without_data(leaf.tensor)
            for leaf in self.leaves.values()
            if not self._is_concrete and leaf.can_carry_channels and is_plain(leaf.tensor)
        }
        self._buffers = {}
        self._fresh.forget()

    def find(self, tensor: torch.Tensor, mutates: bool = False) -> torch.Tensor:
        """The stand-in for a tensor that the model's code holds; others stand for themselves.

        Args:
            tensor: tensor given to an operation.
            mutates: whether the operation writes into one of its operands.
        """
        known = self._made.get(id(tensor))
        if known is not None:
            return known
        leaf = self.leaves.get(id(tensor))
        if leaf is None:
            known = self._fresh.stand_in(tensor)
            return tensor if known is None else known
        leaf.is_read = True
        return self._make(leaf, mutates)

    def find_buffer(self, tensor: torch.Tensor) -> ModelTensor | None:
        """The buffer of integers or booleans that a tensor is, or stands in for."""
        return self._buffers.get(id(tensor))

    def _make(self, leaf: ModelTensor, mutates: bool) -> torch.Tensor:
        if leaf.can_carry_channels:
            known = self._outlines.get(id(leaf.tensor))
            stand_in = (
                _copy_as_ordinary(leaf.tensor, not self._is_concrete) if known is None else known
            )
            follow(stand_in, Labels(leaf.axes, leaf))
        elif mutates:
            stand_in = _copy_as_ordinary(leaf.tensor)
            self._buffers[id(stand_in)] = leaf
        else:
            self._buffers[id(leaf.tensor)] = leaf
            return leaf.tensor
        self._made[id(leaf.tensor)] = stand_in
        return stand_in


def _copy_as_ordinary(tensor: torch.Tensor, is_outline: bool = False) -> torch.Tensor:
    """A copy, or a tensor without data, that is not an inference tensor."""
    with torch.inference_mode(mode=False):
        tensor = tensor.detach()
        return without_data(tensor) if is_outline else tensor.clone()
