"""Replace residual blocks by their skips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import keras

from secateurs.channels.blocks import BlockCut
from secateurs.errors import CutError
from secateurs.keras.internals import Layer
from secateurs.keras.model.nested import flatten
from secateurs.keras.protocols import BackendTensor

ACTIVATIONS = ("", "relu", "silu", "gelu", "tanh")
"""Activations that may follow the sum of a block; cuts loaded from files are checked for them."""


@keras.saving.register_keras_serializable(package="secateurs")
class Bypass(Layer):  # type: ignore[misc]
    """Layer that returns one of its inputs, in place of a block inside another layer's code.

    Args:
        place: position of that input among the tensors of the call.
        after: name of the activation after the block's sum, or ''.
        options: options of any Keras layer.
    """

    def __init__(self, place: int = 0, after: str = "", **options: object) -> None:
        super().__init__(**options)
        self.place = place
        self.after = after
        self.built = True

    def call(self, *given: object, **named: object) -> BackendTensor:
        """Return the input, after the activation if there is one."""
        tensors = [x for x in flatten([list(given), dict(named)]) if hasattr(x, "shape")]
        return activate(tensors[self.place], self.after)

    def get_config(self) -> dict[str, object]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "place": self.place, "after": self.after}


def activate(x: BackendTensor, after: str) -> BackendTensor:
    """Apply the activation named ``after`` to the skip of a removed block; '' applies none."""
    made: BackendTensor = keras.activations.get(after)(x) if after else x
    return made


def check_blocks(blocks: Iterable[BlockCut], known: Iterable[str]) -> None:
    """Raise unless a model has these blocks.

    Args:
        blocks: blocks to be removed.
        known: paths of all layers and operations of the model.

    Raises:
        CutError: a block is missing, or does not come from a Keras model.
    """
    paths = set(known)
    for block in blocks:
        missing = [path for path in (block.owner, *block.layers) if path not in paths]
        if missing or block.shortens or block.gives:
            raise CutError(
                f"{block.owner}: expected a block"
                f"{f' with a layer {missing[0]}' if missing else ''}; the model has none there. "
                "Apply the cut to the model it was planned for, or to one built alike."
            )
        if block.after not in ACTIVATIONS:
            raise CutError(
                f"{block.owner}: expected one of {', '.join(filter(None, ACTIVATIONS))} behind its "
                f"sum; received {block.after!r}"
            )


def hand_on(
    block: BlockCut, name: str, arguments: Sequence[object], keywords: Mapping[str, object]
) -> keras.KerasTensor:
    """Return what replaces a block in a graph: the tensor on its skip.

    Args:
        block: block to remove.
        name: name of its layer, or of its sum.
        arguments: arguments of the call in the new graph, with None for tensors that were removed.
        keywords: keyword arguments, likewise.

    Raises:
        CutError: the tensor on its skip was removed.
    """
    tensors = [
        item
        for item in flatten([list(arguments), dict(keywords)])
        if item is None or isinstance(item, keras.KerasTensor)
    ]
    skip = tensors[block.place] if block.place < len(tensors) else None
    if skip is None:
        raise CutError(
            f"{block.owner}: expected a block whose operand {block.place} remains; nothing in "
            "this model computes it without the block. Apply the cut to the model it was planned "
            "for."
        )
    return keras.layers.Activation(block.after, name=name)(skip) if block.after else skip
