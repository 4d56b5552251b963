"""Look up recorded operations by layer and occurrence, where numbering differs between passes."""

from __future__ import annotations

from collections.abc import Sequence

from secateurs.pytorch.tracing.op_record import OpRecord


class OtherPathError(Exception):
    """A forward pass runs other operations than it was traced with."""

    def __init__(self, index: int, name: str) -> None:
        super().__init__(
            f"operation {index} of the forward pass is {name}, but another one was traced: the "
            "path through the model depends on its input or its sizes"
        )


class RecordsByLayer:
    """Recorded operations, by layer, name and occurrence.

    Args:
        operations: operations of the trace.
    """

    def __init__(self, operations: Sequence[OpRecord]) -> None:
        self._known: dict[tuple[str, str], list[OpRecord]] = {}
        for operation in operations:
            self._known.setdefault((operation.layer, operation.name), []).append(operation)

    def find(self, layer: str, name: str, nth: int, index: int) -> OpRecord | None:
        """Find the record of the ``nth`` operation of a name in a layer; None where there is none.

        Args:
            layer: path of the layer.
            name: name of the aten operation.
            nth: number of operations of that name that the layer ran before it.
            index: number of the operation in the pass, for messages.

        Raises:
            OtherPathError: the layer runs more operations of this name than traced, and they act on
                channels.
        """
        alike = self._known.get((layer, name), [])
        if nth < len(alike):
            return alike[nth]
        if alike and all(_does_alike(alike[0], operation) for operation in alike[1:]):
            return alike[0]  # an expert that got more tokens repeats the same operation
        if any(operation.masks or operation.mixed for operation in alike):
            raise OtherPathError(index, name)
        return None


def _does_alike(one: OpRecord, other: OpRecord) -> bool:
    """Whether the masked twin treats both operations the same."""

    def list_masks(operation: OpRecord) -> list[tuple[object, ...]]:
        return [(mask.operand, mask.axis, mask.units.tobytes()) for mask in operation.masks]

    def list_mixed(operation: OpRecord) -> list[tuple[object, ...]]:
        return [
            (operand, axis, units.tobytes())
            for operand, axes in operation.mixed
            for axis, units in axes.items()
        ]

    return list_masks(one) == list_masks(other) and list_mixed(one) == list_mixed(other)
