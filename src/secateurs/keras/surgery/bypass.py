"""What stays of a residual block: its skip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import keras

from secateurs.channels.blocks import BlockCut
from secateurs.errors import CutError
from secateurs.keras.internals import Layer
from secateurs.keras.model.nested import flatten
from secateurs.keras.protocols import BackendTensor

ACTIVATIONS = ("", "relu", "silu", "gelu", "tanh")
"""What may follow the sum of a block. A cut comes from a file: it names one of these, or fails."""


@keras.saving.register_keras_serializable(package="secateurs")
class Bypass(Layer):  # type: ignore[misc]
    """Hands one of its inputs on, in the place of a layer inside another's code.

    Args:
        place: which of the tensors it is called on.
        after: the activation that stood behind the block's sum, or ''.
        options: as of any layer.
    """

    def __init__(self, place: int = 0, after: str = "", **options: object) -> None:
        super().__init__(**options)
        self.place = place
        self.after = after
        self.built = True

    def call(self, *given: object, **named: object) -> BackendTensor:
        """The input, as it is or behind the activation."""
        tensors = [x for x in flatten([list(given), dict(named)]) if hasattr(x, "shape")]
        return activate(tensors[self.place], self.after)

    def get_config(self) -> dict[str, object]:
        """Its arguments."""
        return {**super().get_config(), "place": self.place, "after": self.after}


def activate(x: BackendTensor, after: str) -> BackendTensor:
    """What is left of a block, of what comes in on its skip."""
    made: BackendTensor = keras.activations.get(after)(x) if after else x
    return made


def check_blocks(blocks: Iterable[BlockCut], known: Iterable[str]) -> None:
    """Raise unless a model has these blocks.

    Args:
        blocks: that are to go.
        known: paths of all layers and operations of the model.

    Raises:
        CutError: one is missing, or is not of a Keras model.
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
    """What a graph has in the place of a block: what it was given on its skip.

    Args:
        block: that goes.
        name: of its layer, or of its sum.
        arguments: of the call in the new graph; None where nothing makes a tensor any more.
        keywords: likewise.

    Raises:
        CutError: there is nothing on it.
    """
    tensors = [
        item
        for item in flatten([list(arguments), dict(keywords)])
        if item is None or isinstance(item, keras.KerasTensor)
    ]
    skip = tensors[block.place] if block.place < len(tensors) else None
    if skip is None:
        raise CutError(
            f"{block.owner}: expected a block whose operand {block.place} stays; nothing of this "
            "model makes it without the block. Apply the cut to the model it was planned for."
        )
    return keras.layers.Activation(block.after, name=name)(skip) if block.after else skip
