"""Find the activations that values are pooled from, while a model's calls are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras
from keras import layers

from secateurs.calibration.before_pooling import (
    Activation,
    Effect,
    Origin,
    Origins,
    activations_read,
)
from secateurs.channels.equations import Ids, Solution
from secateurs.keras.internals import Operation
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.tracing.interpreter import CallSite, RunStep
from secateurs.keras.tracing.op_record import OpRecord
from secateurs.keras.tracing.rules import (
    movement,
    normalisation,
    pointwise,
    pooling,
    reduction,
    rule_for,
)

EFFECTS = {
    Effect.POOLS: (
        pooling.windows,
        pooling.steps,
        pooling.everything,
        reduction.statistic,
        reduction.total,
        movement.pad,
        normalisation.batch_normalization,
    ),
    Effect.MOVES: (
        pointwise.carry_unchanged,
        movement.flatten,
        movement.reshape,
        movement.permute,
        movement.repeat_vector,
        movement.rearrange,
        movement.roll,
        movement.reshape_operation,
        movement.slice_operation,
        movement.split,
        movement.get_item,
    ),
    Effect.JOINS: (movement.concatenate, movement.concatenate_operation, movement.stack),
    Effect.SCALES: (pointwise.rescaling,),
}
"""Effect of a call on values -> the rules of such calls."""

OF_RULES: dict[Callable[..., object], Effect] = {
    rule: effect for effect, rules in EFFECTS.items() for rule in rules
}

DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)

ACTIVATIONS = (layers.ReLU, layers.LeakyReLU, layers.ELU)
"""Activation layers that have the rule of identity layers but change values."""

BY_NAME = {
    **dict.fromkeys(("Add", "Subtract", "Average"), Effect.ADDS),
    **dict.fromkeys(("Maximum", "Minimum"), Effect.CHOOSES),
    **dict.fromkeys(("Multiply", "Divide", "TrueDivide"), Effect.SCALES),
}
"""Class name of a layer or operation -> its effect."""


def effect_of(operation: Operation) -> Effect:
    """The effect of a call on its operands' values."""
    if isinstance(operation, ACTIVATIONS):
        return Effect.ACTS
    if _is_weighted_pool(operation):
        return Effect.POOLS
    rule = rule_for(type(operation))
    by_name = BY_NAME.get(type(operation).__name__, Effect.ACTS)
    return by_name if rule is None else OF_RULES.get(rule, by_name)


def _is_weighted_pool(operation: Operation) -> bool:
    """Whether it is a depthwise convolution with one output per channel and no activation."""
    if isinstance(operation, DEPTHWISE):
        alone = operation.depth_multiplier == 1
    elif isinstance(operation, CONVOLUTIONS) and operation.groups > 1:
        alone = operation.groups == operation.filters and operation.kernel.shape[-2] == 1
    else:
        return False
    return alone and operation.activation is keras.activations.linear


class Pooling:
    """Wrapper of a step function that records, for each tensor, what it was pooled from."""

    def __init__(self, operations: Sequence[OpRecord], solution: Solution) -> None:
        self._operations = operations
        self._solution = solution
        self._origins = Origins()
        self._live: dict[int, BackendTensor] = {}  # references, so that no id is reused
        self._operand = 0

    def __call__(
        self,
        step: RunStep,
        site: CallSite,
        arguments: Sequence[object],
        keywords: dict[str, object],
    ) -> object:
        given = keras.tree.flatten([list(arguments), keywords])
        slots = self._operations[site.index].slots
        self._operand = id(given[slots[0]]) if slots else 0
        result = step(site, arguments, keywords)
        keys = [id(given[slot]) if id(given[slot]) in self._live else None for slot in slots]
        results = keras.tree.flatten(result)
        self._live.update({id(tensor): tensor for tensor in results})
        effect = effect_of(site.operation)
        self._origins.follow(site.index, effect, keys, [id(tensor) for tensor in results])
        return result

    def activations_of(self, tensor: BackendTensor, units: Ids) -> tuple[Activation, ...]:
        """Return the activations that a tensor was pooled from; none if it is not pooled."""
        return self._read(self._origins.of(id(tensor)), units)

    def activations_inside(self, step: int, units: Ids) -> tuple[Activation, ...]:
        """Return the activations that the first operand of the running call was pooled from.

        A separable convolution reads, after its depthwise half, what this pools from the operand.
        """
        return self._read(self._origins.of(self._operand) or (Origin(step, 0),), units)

    def _read(self, found: Iterable[Origin], units: Ids) -> tuple[Activation, ...]:
        origins = [
            (origin, self._operations[origin.step].inputs[origin.operand][1]) for origin in found
        ]
        return activations_read(self._solution, units, origins) if origins else ()


class ZerosBefore:
    """Step function that counts zeros of activations, per image and channel.

    Attributes:
        found: activation -> (number of values per channel, zeros of shape (images, channels)).
    """

    def __init__(
        self, step: RunStep, operations: Sequence[OpRecord], wanted: Iterable[Activation]
    ) -> None:
        self._step = step
        self._operations = operations
        self._wanted: dict[int, list[Activation]] = {}
        for activation in wanted:
            self._wanted.setdefault(activation.origin.step, []).append(activation)
        self.found: dict[Activation, tuple[int, BackendTensor]] = {}

    def __call__(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        for activation in self._wanted.get(site.index, ()):
            slot = self._operations[site.index].slots[activation.origin.operand]
            tensor = keras.tree.flatten([list(arguments), keywords])[slot]
            seen = keras.ops.moveaxis(tensor, activation.axis, -1)
            seen = keras.ops.reshape(seen, (tensor.shape[0], -1, tensor.shape[activation.axis]))
            seen = keras.ops.take(seen, activation.index.astype("int32"), axis=2)
            zeros = keras.ops.sum(keras.ops.cast(seen == 0, "float32"), axis=1)
            self.found[activation] = (seen.shape[0] * seen.shape[1], zeros)
        return self._step(site, arguments, keywords)
