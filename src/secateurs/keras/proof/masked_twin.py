"""The masked twin: the dense model run as if the removed channels did not exist.

This module also samples the values of a run, and runs the small model beside the twin.
``comparison.py`` compares them, with tolerances for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import cast

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.sampling import SAMPLES_EACH, places_in
from secateurs.channels.tensors import Mask
from secateurs.keras.internals import (
    NOT_PLAIN,
    AssumedValues,
    Layer,
    Operation,
    Variable,
    call_plainly,
    dtype_of,
    fill_zeros,
    mask_of,
    pick_along,
    pick_flat,
    set_mask,
)
from secateurs.keras.model.nested import flatten
from secateurs.keras.model.tensors import named_variables
from secateurs.keras.proof.few_operations import call_in_few_operations
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.sizes.layer_sizes import SizeChanges, by_owner, with_positions
from secateurs.keras.surgery.rebuilding import keep_random_state, rebuild_layer
from secateurs.keras.trace_model import TracedModel
from secateurs.keras.tracing.interpreter import CallSite, call_layer, inference_options
from secateurs.keras.tracing.op_record import Axes, OpRecord


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """The kept units, and operations that select them.

    Attributes:
        stays: whether each unit is kept, shape (units,).
    """

    stays: NDArray[np.bool_]
    _known: dict[int, tuple[Ids, NDArray[np.int32]]] = field(default_factory=dict)
    """Units (by ``id``, so they are held) -> their places; each axis is asked for many times."""

    def places(self, units: Ids) -> NDArray[np.int32]:
        """Return the kept positions along an axis with these units."""
        known = self._known.get(id(units))
        if known is None:
            known = units, np.flatnonzero(self.stays[units]).astype(np.int32)
            self._known[id(units)] = known
        return known[1]

    def stay_all(self, units: Ids) -> bool:
        """Return whether none of these units is removed."""
        return len(self.places(units)) == len(units)

    def shape(self, dense: Sequence[int], axes: Axes) -> tuple[int, ...]:
        """Return the shape of a tensor after the cut."""
        return tuple(
            len(self.places(axes[axis])) if axis in axes else length
            for axis, length in enumerate(dense)
        )

    def along_axis(self, units: Ids, rank: int, axis: int) -> NDArray[np.bool_]:
        """Return whether each unit is kept, shaped to broadcast along one axis of a tensor."""
        shape = [1] * rank
        shape[axis] = len(units)
        return self.stays[units].reshape(shape)

    def all(self, axes: Axes) -> bool:
        """Return whether nothing is removed along these axes."""
        return all(self.stay_all(units) for units in axes.values())

    def compress(self, tensor: BackendTensor, axes: Axes) -> BackendTensor:
        """Remove the removed channels from a tensor."""
        small = tensor
        for axis, units in axes.items():
            if not self.stay_all(units):
                small = keras.ops.take(small, self.places(units), axis=axis)
        if small is not tensor:
            set_mask(small, mask_of(tensor))
        return small

    def expand(self, tensor: BackendTensor, axes: Axes) -> BackendTensor:
        """Undo ``compress``, with arbitrary values, which are not read, at the removed channels."""
        for axis, units in axes.items():
            if not self.stay_all(units):
                back = np.cumsum(self.stays[units]).astype(np.int32) - 1
                tensor = keras.ops.take(tensor, np.maximum(back, 0), axis=axis)
        return tensor


_MOST_WAITING = 2**22
"""Numbers in results that wait to be sampled, beyond which they do not."""


class OtherCallError(Exception):
    """Raised where a model makes a different call than the one traced at this index."""


def _call(
    operation: Operation,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    *,
    any_width: bool = False,
) -> object:
    """Call an operation on real tensors, in inference mode, by as few operations as possible.

    Args:
        operation: layer or operation.
        arguments: positional arguments of the call.
        keywords: keyword arguments of the call.
        any_width: True accepts fewer channels than the layer was built for; the result is then
            ``NOT_PLAIN``, and nothing is run, where the layer cannot be run so.
    """
    options = inference_options(operation, keywords)
    output = call_in_few_operations(operation, arguments, options, any_width=any_width)
    if output is NOT_PLAIN and (not any_width or _takes_any_width(operation)):
        output = call_plainly(operation, arguments, options, any_width=any_width)
    if output is NOT_PLAIN and not any_width:
        output = operation(*arguments, **options)
    return output


def _takes_any_width(layer: Operation) -> bool:
    """Return whether a layer's code runs on fewer channels and as many positions of its kernel.

    On TensorFlow, Keras compares a convolution's input with the shape that its variable has.
    """
    return keras.backend.backend() == "torch" or isinstance(layer, keras.layers.Dense)


class Sampled:
    """Runs a model and samples a few values of every call's result.

    A model's output alone proves nothing where it hardly depends on the weights (a head initialised
    with zeros, dead activations), so the proof also compares intermediate values.

    Args:
        operations: calls of the trace.
        kept: kept units.
        sizes_as_traced: False where images are smaller than in the trace.
    """

    def __init__(
        self, operations: Sequence[OpRecord], kept: Kept, *, sizes_as_traced: bool = True
    ) -> None:
        self._operations = operations
        self._kept = kept
        self._sizes_as_traced = sizes_as_traced
        self._places: dict[tuple[object, ...], NDArray[np.integer]] = {}
        # TensorFlow's tensors never change; PyTorch's may, so they are sampled at once.
        self._most_waiting = _MOST_WAITING if keras.backend.backend() == "tensorflow" else 0
        self._waiting: list[tuple[BackendTensor, OpRecord]] = []
        self._numbers_waiting = 0
        self._samples: list[BackendTensor] = []
        self.values: AssumedValues | None = None

    def begin(self, values: AssumedValues | None = None) -> None:
        """Discard the samples of an earlier run; ``values`` are those of the next one."""
        self._waiting, self._numbers_waiting, self._samples = [], 0, []
        self.values = values

    def beside(self, outputs: Sequence[BackendTensor]) -> tuple[list[BackendTensor], ...]:
        """Return further results of a run that gave these outputs."""
        del outputs
        return ()

    def __call__(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        operation = self._operations[site.index]
        if not self._sizes_as_traced and operation.name != type(site.operation).__name__:
            raise OtherCallError(site.path)
        output = self.do(operation, site, arguments, keywords)
        result = first_of(output)
        self._waiting.append((result, operation))
        self._numbers_waiting += math.prod(result.shape)
        if self._numbers_waiting > self._most_waiting:
            self._sample_waiting()
        return output

    def samples(self) -> list[BackendTensor]:
        """Return the samples of all calls so far, in order."""
        self._sample_waiting()
        return self._samples

    def _sample_waiting(self) -> None:
        """Sample results in a row, which takes half the time that it takes between calls."""
        self._samples += [self.sample(result, operation) for result, operation in self._waiting]
        self._waiting, self._numbers_waiting = [], 0

    def do(
        self,
        operation: OpRecord,
        site: CallSite,
        arguments: Sequence[object],
        keywords: dict[str, object],
    ) -> object:
        """Run the call; the masked twin overrides this."""
        del operation
        return _call(site.operation, arguments, keywords)

    def sample(self, tensor: BackendTensor, operation: OpRecord) -> BackendTensor:
        """Sample a result at positions that depend on the shape in the small model only."""
        kind = dtype_of(tensor)
        shape, axes = operation.outputs[0]
        here = tuple(tensor.shape)
        # ids are unique: records hold these arrays
        key = (here, shape, *axes, *map(id, axes.values()))
        if key not in self._places:
            self._places[key] = self._flat_places(here, shape, axes)
        places = self._places[key]
        if "float" not in kind or not len(places):
            nothing: BackendTensor = keras.ops.zeros((0,))
            return nothing
        values = pick_flat(tensor, places)
        as_is = kind in ("float32", "float64")
        sample: BackendTensor = values if as_is else keras.ops.cast(values, "float32")
        return sample

    def _flat_places(
        self, here: Sequence[int], shape: Sequence[int], axes: Axes
    ) -> NDArray[np.integer]:
        """Return the flat indices to sample a result of this shape at; none of an empty one."""
        if self._sizes_as_traced:
            batch = here[:1] if shape and 0 not in axes else ()
            dense = (*batch, *shape[len(batch) :])
        else:
            dense = tuple(n if axis in axes else here[axis] for axis, n in enumerate(shape))
        small = self._kept.shape(dense, axes)
        if not math.prod(small):
            return np.zeros(0, np.int64)
        if not small:
            return np.zeros(1, np.int64)
        places = self._move(places_in(small, SAMPLES_EACH), axes)
        return np.ravel_multi_index(places, tuple(self.shape_of(dense, small)))

    def shape_of(self, dense: Sequence[int], small: Sequence[int]) -> Sequence[int]:
        """Return the shape of a result in this model: the small shape or the dense one."""
        del dense
        return small

    def _move(
        self, places: Sequence[NDArray[np.integer]], axes: Axes
    ) -> tuple[NDArray[np.integer], ...]:
        """Positions in this model's result of the small model's positions."""
        del axes
        return tuple(places)


SilentPlaces = Mapping[int, Mapping[tuple[str, int], Mask]]
"""Index of a call -> (name, axis) of a weight -> mask of the operand, masked instead of it."""


class MaskedTwin(Sampled):
    """Runs the dense model as if the removed channels did not exist.

    Args:
        operations: calls of the trace.
        kept: kept units.
        stand_ins: index of a call that mixes channels -> its layer rebuilt for the kept channels.
        silent: operands to mask, in addition to those of the trace.
        kernels: index of a call -> (kernel, its axis) that reads the operand to mask, where the
            call can leave removed channels out of both instead: zeros would add nothing.
        sizes_as_traced: as for ``Sampled``.
    """

    def __init__(
        self,
        operations: Sequence[OpRecord],
        kept: Kept,
        stand_ins: Mapping[int, Operation],
        silent: SilentPlaces | None = None,
        *,
        kernels: Mapping[int, tuple[Variable, int]] = MappingProxyType({}),
        sizes_as_traced: bool = True,
    ) -> None:
        super().__init__(operations, kept, sizes_as_traced=sizes_as_traced)
        self._stand_ins = stand_ins
        self._silent = silent or {}
        self._kernels = kernels

    def do(
        self,
        operation: OpRecord,
        site: CallSite,
        arguments: Sequence[object],
        keywords: dict[str, object],
    ) -> object:
        if site.index in self._stand_ins:
            layer = self._stand_ins[site.index]
            if not isinstance(layer, Layer):  # an operation accepts any number of channels
                layer = site.operation
            return self._on_kept_channels(operation, layer, arguments, keywords)
        if site.index in self._kernels and not operation.masks:
            output = self._without_removed(site, arguments, keywords)
            if output is not NOT_PLAIN:
                return output
        if masks := [*operation.masks, *self._silent.get(site.index, {}).values()]:
            mask = partial(self._mask, masks)
            arguments, keywords = with_tensors(operation, arguments, keywords, mask)
        return _call(site.operation, arguments, keywords)

    def _without_removed(
        self, site: CallSite, arguments: Sequence[object], keywords: Mapping[str, object]
    ) -> object:
        """Run a contraction without the removed channels of its operand and of its kernel.

        Returns:
            Its output; ``NOT_PLAIN``, and nothing is run, where zeros have to stand for them.
        """
        (mask,) = self._silent[site.index].values()
        kernel, axis = self._kernels[site.index]
        places = self._kept.places(mask.units)
        if self.values is None or len(arguments) != 1 or len(places) == len(mask.units):
            return NOT_PLAIN
        # The same places of both, whatever the labels of the kernel's own axis are.
        given = pick_along(cast("BackendTensor", arguments[0]), places, mask.axis)
        with self.values.picking(kernel, places, axis):
            return _call(site.operation, [given], keywords, any_width=True)

    def _mask(self, masks: Sequence[Mask], number: int, tensor: BackendTensor) -> BackendTensor:
        masked = tensor
        for mask in masks:
            if mask.operand == number and not self._kept.stay_all(mask.units):
                stays = self._kept.along_axis(mask.units, len(tensor.shape), mask.axis)
                masked = fill_zeros(masked, stays)
        set_mask(masked, mask_of(tensor))
        return masked

    def _on_kept_channels(
        self,
        operation: OpRecord,
        layer: Layer,
        arguments: Sequence[object],
        keywords: dict[str, object],
    ) -> object:
        """Run a mixing call on the kept channels, and expand its outputs to the dense shapes."""
        padding: list[BackendTensor | None] = []

        def compress(number: int, tensor: BackendTensor) -> BackendTensor:
            padding.append(mask_of(tensor))
            return self._kept.compress(tensor, operation.inputs[number][1])

        arguments, keywords = with_tensors(operation, arguments, keywords, compress)
        output = _call(layer, arguments, keywords)
        flat = [
            self._kept.expand(tensor, axes)
            for tensor, (_, axes) in zip(flatten(output), operation.outputs, strict=True)
        ]
        set_mask(flat[0], padding[0])
        return keras.tree.pack_sequence_as(output, flat)

    def shape_of(self, dense: Sequence[int], small: Sequence[int]) -> Sequence[int]:
        return dense

    def _move(
        self, places: Sequence[NDArray[np.integer]], axes: Axes
    ) -> tuple[NDArray[np.integer], ...]:
        return tuple(
            self._kept.places(axes[axis])[at] if axis in axes else at
            for axis, at in enumerate(places)
        )


def first_of(output: object) -> BackendTensor:
    """Return the first tensor of an output."""
    return cast("BackendTensor", flatten(output)[0])


def with_tensors(
    operation: OpRecord,
    arguments: Sequence[object],
    keywords: dict[str, object],
    change: Callable[[int, BackendTensor], BackendTensor],
) -> tuple[list[object], dict[str, object]]:
    """Apply ``change(operand number, tensor)`` to the tensors among a call's arguments."""
    if len(arguments) == 1 and not keywords and hasattr(arguments[0], "shape"):
        return [change(0, cast("BackendTensor", arguments[0]))], {}
    structure = [list(arguments), keywords]
    flat = list(flatten(structure))
    for number, slot in enumerate(operation.slots):
        flat[slot] = change(number, flat[slot])
    changed = keras.tree.pack_sequence_as(structure, flat)
    return list(changed[0]), dict(changed[1])


class SideBySide(MaskedTwin):
    """The masked twin, with each call of the small model run beside it on the twin's values.

    Differences by rounding cannot accumulate from layer to layer this way.
    """

    def __init__(
        self,
        operations: Sequence[OpRecord],
        kept: Kept,
        stand_ins: Mapping[int, Operation],
        silent: SilentPlaces,
        calls: Mapping[str, Operation],
        sizes: SizeChanges,
        written: Mapping[int, Operation] = MappingProxyType({}),
    ) -> None:
        super().__init__(operations, kept, stand_ins, silent)
        self._calls = calls
        self._sizes = sizes
        self._written = written
        self.begin()

    def begin(self, values: AssumedValues | None = None) -> None:
        super().begin(values)
        self._theirs: dict[int, BackendTensor] = {}
        self._their_samples: list[BackendTensor] = []
        self._theirs_sampled = Sampled(self._operations, self._kept)

    def __call__(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        output = super().__call__(site, arguments, keywords)
        operation = self._operations[site.index]

        def compress(number: int, tensor: BackendTensor) -> BackendTensor:
            return self._kept.compress(tensor, operation.inputs[number][1])

        # An operation that a layer's code creates has no path; its lengths are the small model's.
        layer = self._written.get(site.index) or self._calls.get(site.path, site.operation)
        less, options = with_tensors(operation, arguments, keywords, compress)
        less = with_positions(layer, less, self._sizes.get(site.path, ()))
        theirs = flatten(call_layer(layer, less, options))
        for mine, other in zip(flatten(output), theirs, strict=True):
            self._theirs[id(mine)] = other
        self._their_samples.append(self._theirs_sampled.sample(theirs[0], operation))
        return output

    def beside(self, outputs: Sequence[BackendTensor]) -> tuple[list[BackendTensor], ...]:
        return [self._theirs.get(id(tensor), tensor) for tensor in outputs], self._their_samples


def stand_ins_of(source: TracedModel, cut: Cut, kept: Kept) -> dict[int, Operation]:
    """Rebuild, for the kept channels, the layer of each call that mixes removed and kept ones."""
    layers: dict[int, Operation] = {}
    for index, operation in enumerate(source.operations):
        if operation.mixes and not all(kept.all(axes) for _, axes in operation.inputs):
            layers[index] = _stand_in(source, cut, kept, operation, operation.call)
    return layers


def _stand_in(
    source: TracedModel, cut: Cut, kept: Kept, operation: OpRecord, layer: Operation
) -> Operation:
    """Rebuild a mixing layer with the cut's sizes and the kept slices of its weights."""
    if not hasattr(layer, "build"):
        return layer  # an operation of keras.ops accepts any number of channels
    path = operation.layer
    with keep_random_state():
        new = rebuild_layer(layer, path, by_owner(cut.sizes))
        shapes = [kept.shape(shape, axes) for shape, axes in operation.inputs]
        new.build(shapes[0] if len(shapes) == 1 else shapes)
    pairs = zip(named_variables(layer, path), named_variables(new, path), strict=True)
    leaves = {id(leaf.variable): leaf for leaf in source.leaves.values()}
    for (_, old, _), (_, made, _) in pairs:
        leaf = leaves[id(old)]
        numbers = np.asarray(keras.ops.convert_to_numpy(old.value))
        for axis, units in leaf.axes.items():
            numbers = np.take(numbers, kept.places(units), axis=axis)
        made.assign(numbers)
    return new
