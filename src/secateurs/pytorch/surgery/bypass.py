"""Remove residual blocks: each is replaced by its skip, or deleted from its list."""

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
"""Activations that may follow a block's sum.

A cut comes from a file, so names are looked up here.
"""

_NUMBERS = ("layer_idx", "layer_id", "layer_index", "layer_number")
"""Attributes in which a layer keeps its index in the list."""


class Bypass(nn.Module):
    """What is left of a residual block: its skip.

    Args:
        block: removed block; its children on the skip keep their names, and its plain attributes
            are copied too, since the model may read them (a layer's attention type, say).
        cut: description of the removal.
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
        """Pass the input through the modules left on the skip."""
        cut: BlockCut = self.__dict__["_bypass"]
        x = named[cut.keyword] if cut.keyword in named else given[cut.place]
        for name in cut.keeps:
            x = getattr(self, name)(x)
        x = ACTIVATIONS[cut.after](x)
        return (x, *[None] * (cut.gives - 1)) if cut.gives else x

    def extra_repr(self) -> str:
        """Names of the modules left on the skip."""
        cut: BlockCut = self.__dict__["_bypass"]
        return f"was a block of {', '.join(cut.keeps) or 'nothing'} on its skip"


def remove_blocks_(model: nn.Module, blocks: Sequence[BlockCut]) -> None:
    """Remove blocks from a freshly copied model, in place.

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
    """Refuse a block that the model does not have in the expected form."""
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
    """Delete elements of a list; the elements left get their new indices."""
    holder = known[path]
    left = [(n, child) for n, child in enumerate(holder.children()) if n not in gone]
    holder._modules.clear()
    for new, (old, child) in enumerate(left):
        holder._modules[str(new)] = child
        for module in child.modules():
            for name in _NUMBERS:
                if vars(module).get(name) == old:
                    setattr(module, name, new)
