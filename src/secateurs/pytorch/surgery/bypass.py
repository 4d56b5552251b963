"""Taking residual blocks out of a model: what hands its input on, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from secateurs.channels.blocks import BlockCut
from secateurs.errors import CutError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda x: x,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "hardswish": functional.hardswish,
}
"""What may follow the sum of a block. A cut comes from a file: it names one of these, or fails."""

_NUMBERS = ("layer_idx", "layer_id", "layer_index", "layer_number")
"""Attributes in which a layer keeps its place in the list."""


class Bypass(nn.Module):
    """What stays of a residual block: its skip.

    Args:
        block: the one that went; its children on the skip stay under their names, and its plain
            attributes (a kind of attention that the model asks for, say) too.
        cut: what went.
    """

    def __init__(self, block: nn.Module, cut: BlockCut) -> None:
        super().__init__()
        hidden = vars(nn.Module()).keys() | {"forward"}
        for name, value in vars(block).items():
            if name not in hidden and not isinstance(value, (nn.Module, torch.Tensor)):
                setattr(self, name, value)
        self.training = block.training
        for name in cut.keeps:
            self.add_module(name, getattr(block, name))
        self.__dict__["_bypass"] = cut

    def forward(self, *given: Any, **named: Any) -> Any:
        """The input, through what is left on the skip."""
        cut: BlockCut = self.__dict__["_bypass"]
        x = named[cut.keyword] if cut.keyword in named else given[cut.place]
        for name in cut.keeps:
            x = getattr(self, name)(x)
        x = ACTIVATIONS[cut.after](x)
        return (x, *[None] * (cut.gives - 1)) if cut.gives else x

    def extra_repr(self) -> str:
        """What is left of the block."""
        cut: BlockCut = self.__dict__["_bypass"]
        return f"was a block of {', '.join(cut.keeps) or 'nothing'} on its skip"


def remove_blocks_(model: nn.Module, blocks: Sequence[BlockCut]) -> None:
    """Take blocks out of a model that has just been copied.

    Raises:
        CutError: a block is missing, or is not what the cut expects.
    """
    known = dict(model.named_modules())
    for block in blocks:
        _check(known, block)
    for block in blocks:
        parent, _, name = block.owner.rpartition(".")
        if not block.shortens:
            holder, gone = known[parent], known[block.owner]
            holder._modules[name] = Bypass(gone, block)
    for path in dict.fromkeys(b.owner.rpartition(".")[0] for b in blocks if b.shortens):
        gone_numbers = {
            int(b.owner.rpartition(".")[2])
            for b in blocks
            if b.shortens and b.owner.rpartition(".")[0] == path
        }
        _shorten_(known, path, gone_numbers)


def _check(known: dict[str, nn.Module], block: BlockCut) -> None:
    module = known.get(block.owner)
    holder = known.get(block.owner.rpartition(".")[0])
    if module is None or holder is None or any(not hasattr(module, c) for c in block.keeps):
        raise CutError(
            f"{block.owner}: expected a block"
            f"{' with ' + ', '.join(block.keeps) if block.keeps else ''}; the model has none "
            "there. Apply the cut to the model it was planned for, or to one built alike."
        )
    if block.after not in ACTIVATIONS:
        raise CutError(
            f"{block.owner}: expected one of {', '.join(filter(None, ACTIVATIONS))} behind its "
            f"sum; received {block.after!r}"
        )
    if block.shortens and not isinstance(holder, nn.ModuleList):
        raise CutError(
            f"{block.owner}: expected a ModuleList that holds it; received a "
            f"{type(holder).__name__}. Apply the cut to the model it was planned for."
        )


def _shorten_(known: dict[str, nn.Module], path: str, gone: Iterable[int]) -> None:
    """Take elements out of a list; those that stay learn their new places."""
    holder = known[path]
    left = [(n, child) for n, child in enumerate(holder.children()) if n not in gone]
    holder._modules.clear()
    for new, (old, child) in enumerate(left):
        holder._modules[str(new)] = child
        for module in child.modules():
            for name in _NUMBERS:
                if vars(module).get(name) == old:
                    setattr(module, name, new)
