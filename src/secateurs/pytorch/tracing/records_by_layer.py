"""What is known of an operation, found by its place in its layer where its number is another."""

from __future__ import annotations

from collections.abc import Sequence

from secateurs.pytorch.tracing.op_record import OpRecord


class OtherPathError(Exception):
    """A forward pass does not do the operations it was traced with."""

    def __init__(self, index: int, name: str) -> None:
        super().__init__(
            f"operation {index} of its forward pass is {name}, and was another when it was traced: "
            "its path depends on its input or its sizes"
        )


class RecordsByLayer:
    """The operations of a trace, each as its layer's first, second, ... of its kind.

    Args:
        operations: of the trace.
    """

    def __init__(self, operations: Sequence[OpRecord]) -> None:
        self._known: dict[tuple[str, str], list[OpRecord]] = {}
        for operation in operations:
            self._known.setdefault((operation.layer, operation.name), []).append(operation)

    def find(self, layer: str, name: str, nth: int, index: int) -> OpRecord | None:
        """What is known of the ``nth`` operation of a name in a layer; None where nothing is.

        Args:
            layer: where it happens.
            name: of the aten operation.
            nth: how many of that name the layer has done before it.
            index: its number in the pass, for messages.

        Raises:
            OtherPathError: its layer does more of its kind than it did, and channels go there.
        """
        alike = self._known.get((layer, name), [])
        if nth < len(alike):
            return alike[nth]
        if alike and all(_does_alike(alike[0], operation) for operation in alike[1:]):
            return alike[0]  # an expert that more tokens are sent to: each time the same is done
        if any(operation.masks or operation.mixed for operation in alike):
            raise OtherPathError(index, name)
        return None


def _does_alike(one: OpRecord, other: OpRecord) -> bool:
    """Whether the twin would do the same for both."""

    def list_masks(operation: OpRecord) -> list[tuple[object, ...]]:
        return [(mask.operand, mask.axis, mask.units.tobytes()) for mask in operation.masks]

    def list_mixed(operation: OpRecord) -> list[tuple[object, ...]]:
        return [
            (operand, axis, units.tobytes())
            for operand, axes in operation.mixed
            for axis, units in axes.items()
        ]

    return list_masks(one) == list_masks(other) and list_mixed(one) == list_mixed(other)
