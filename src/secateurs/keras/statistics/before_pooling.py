"""A layer's own activations, where what is read of them was pooled, padded or resized before.

How often a neuron is zero is a matter of its activations. A maximum over a window is zero only
where the whole window is, and an average hardly ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from secateurs.channels.equations import Ids
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.tracing.interpreter import Site, Step, first_tensor
from secateurs.keras.tracing.rules import movement, pointwise, pooling, reduction, rule_for
from secateurs.keras.tracing.tracer import Axes, OpRecord

POOLING = (
    pooling.windows,
    pooling.steps,
    pooling.everything,
    reduction.statistic,
    reduction.total,
    movement.pad,
)
"""Rules of calls that make one value of several, or add some, by position."""

MOVING = (
    pointwise.carry_unchanged,
    movement.flatten,
    movement.reshape,
    movement.permute,
    movement.rearrange,
    movement.reshape_operation,
)
"""Rules of calls whose values are those of what they are given."""


@dataclass(frozen=True, eq=False, slots=True)
class Activation:
    """What values are pooled from: the first tensor that some call is given.

    Attributes:
        step: the number of the call.
        axis: where the tensor has its channels.
        units: which they are.
    """

    step: int
    axis: int
    units: Ids


class Pooling:
    """A step that remembers, for each tensor, what it was pooled from."""

    def __init__(self, operations: Sequence[OpRecord]) -> None:
        self._operations = operations
        self._before: dict[int, tuple[int, Axes] | None] = {}
        self._alive: list[BackendTensor] = []  # so that no two tensors have one id

    def __call__(
        self, step: Step, site: Site, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        result = step(site, arguments, keywords)
        rule = rule_for(type(site.operation))
        if rule in POOLING or rule in MOVING:
            operation = self._operations[site.index]
            given = keras.tree.flatten([list(arguments), keywords])[operation.slots[0]]
            known = self._before.get(id(given))
            if known is None and rule in POOLING:
                known = (site.index, operation.inputs[0][1])
            for tensor in keras.tree.flatten(result):
                self._alive.append(tensor)
                if tensor is not given:
                    self._before[id(tensor)] = known
        return result

    def activation_of(self, tensor: BackendTensor, units: Ids) -> Activation | None:
        """What it was pooled from, if it was, where these units lie."""
        known = self._before.get(id(tensor))
        if known is None:
            return None
        step, axes = known
        for axis, along in axes.items():
            if np.isin(along, units).all():
                return Activation(step, axis, along)
        return None


class ZerosBefore:
    """A step that counts the zeros of activations; ``found``: for each, (values, zeros)."""

    def __init__(self, step: Step, wanted: Iterable[Activation]) -> None:
        self._step = step
        self._wanted: dict[int, list[Activation]] = {}
        for activation in wanted:
            self._wanted.setdefault(activation.step, []).append(activation)
        self.found: dict[Activation | None, tuple[int, BackendTensor]] = {}

    def __call__(
        self, site: Site, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        for activation in self._wanted.get(site.index, ()):
            tensor = first_tensor(arguments, keywords)
            seen = keras.ops.moveaxis(tensor, activation.axis, -1)
            seen = keras.ops.reshape(seen, (tensor.shape[0], -1, len(activation.units)))
            zeros = keras.ops.sum(keras.ops.cast(seen == 0, "float32"), axis=1)
            self.found[activation] = (seen.shape[0] * seen.shape[1], zeros)
        return self._step(site, arguments, keywords)
