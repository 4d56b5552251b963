"""The masked twin: the dense model run as if the removed channels did not exist.

The samples that a run keeps for comparison are here too; ``comparison.py`` decides what is compared
and which differences rounding explains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch._ops import OpOverload

from secateurs.channels.equations import Ids
from secateurs.channels.sampling import SAMPLES_EACH, flat_places_in, places_in
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import OpInterpreter, aten
from secateurs.pytorch.tracing.op_call import (
    Arguments,
    Call,
    Keywords,
    iterate_tensors,
    map_tensors,
    name_of,
)
from secateurs.pytorch.tracing.op_record import Axes, OpRecord
from secateurs.pytorch.tracing.records_by_layer import OtherPathError, RecordsByLayer


class Sampled(OpInterpreter):
    """Runs a model and samples a few values of every operation's result.

    The output alone may prove nothing where it hardly depends on the weights (a head initialised to
    zero, dead activations), so the proof also compares values inside the model.
    """

    may_lack_data = False  # a comparison needs values

    _moves = False
    """Whether the small model's positions are others in this model's results."""

    def __init__(
        self,
        operations: Sequence[OpRecord],
        stays: NDArray[np.bool_],
        *,
        sizes_as_traced: bool = True,
        beside: Sampled | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            operations: operations of the trace.
            stays: mask of the units that are kept, shape (units,).
            sizes_as_traced: False for images of another size: then every operation has to be the
                traced one, and every result is sampled, or the run raises.
            beside: a run of the same trace and kept units, which has looked their positions up.
        """
        super().__init__(rules.is_whole)
        self._sizes_as_traced = sizes_as_traced
        self._operations = operations
        self._stays = stays
        self._done: dict[tuple[str, str], int] = {}
        self._by_layer: RecordsByLayer | None = None
        self._places: dict[tuple[object, ...], torch.Tensor | None] = {}
        self._kept: dict[int, Ids] = {} if beside is None else beside._kept
        self._indices, self._samples = PackedRows(), PackedRows()
        self.samples: list[tuple[str, torch.Tensor | None]] = []
        """For each operation, its layer and the values sampled from its result."""
        self._models: set[int] = set()
        self._copies_of_written: dict[int, torch.Tensor] = {}

    def prepare(self) -> None:
        self._models, self._copies_of_written = set(), {}
        for _, module in self._modules:
            for held in (module._parameters, module._buffers):
                if held:
                    self._models.update(map(id, held.values()))

    def with_copies(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> tuple[Arguments, Keywords]:
        """An operation's arguments, with copies of what it or an earlier one writes into.

        Writes into the model's parameters and buffers go to copies: an observer of fake
        quantisation, for example, updates its range at every run.
        """
        is_mutable = function._schema.is_mutable
        if not is_mutable and not self._copies_of_written:
            return arguments, keywords

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            key = id(tensor)
            if is_mutable and key in self._models:
                self._copies_of_written.setdefault(key, tensor.clone())
            return self._copies_of_written.get(key, tensor)

        return map_tensors(arguments, copy), map_tensors(keywords, copy)

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        arguments, keywords = self.with_copies(function, arguments, keywords)
        operation = self._find_record(name_of(function))
        if operation is None or not operation.outputs:
            self.samples.append((self.layer, None))
            return function(*arguments, **keywords)
        output = self.do(operation, function, arguments, keywords)
        first = output if isinstance(output, torch.Tensor) else next(iterate_tensors(output), None)
        sampled = None if operation.is_empty else self._sample(first, operation)
        self.samples.append((operation.layer, sampled))
        return output

    def _find_record(self, name: str) -> OpRecord | None:
        """The trace's record of the operation that is running.

        Operations are matched by number, until the path differs from the trace (in a detector,
        values decide); from there on by layer, name and occurrence.

        Raises:
            OtherPathError: the layer runs more operations of this name than traced, and they act on
                channels.
        """
        key = (self.layer, name)
        nth = self._done.get(key, 0)
        self._done[key] = nth + 1
        if self._by_layer is None:
            known = self._operations[self.index : self.index + 1]
            if known and (known[0].layer, known[0].name) == key:
                return known[0]
            if not self._sizes_as_traced:
                raise OtherPathError(self.index, name)
            self._by_layer = RecordsByLayer(self._operations)
        return self._by_layer.find(self.layer, name, nth, self.index)

    def find_by_layer(self) -> None:
        """Match operations by layer from the start, for a run on another path."""
        self._by_layer = RecordsByLayer(self._operations)

    @property
    def has_done_all(self) -> bool:
        """Whether the run matched every traced operation, and no other."""
        return self._by_layer is None and self.index + 1 == len(self._operations)

    def do(
        self,
        operation: OpRecord,
        function: OpOverload,
        arguments: Arguments,
        keywords: Keywords,
    ) -> object:
        """Run the operation; the masked twin overrides this."""
        del operation
        return function(*arguments, **keywords)

    def _sample(self, tensor: torch.Tensor | None, operation: OpRecord) -> torch.Tensor | None:
        """Values at positions that depend on the small model's shape alone."""
        if tensor is None or not tensor.is_floating_point():
            return None
        dense, axes = operation.outputs[0]
        shape = tensor.shape
        # ids are unique: records hold these arrays
        key = (dense, shape, *axes, *map(id, axes.values()))
        places = self._places.get(key, _UNKNOWN)
        if places is _UNKNOWN:
            places = self._places[key] = self._places_in(dense, axes, shape)
        if places is None:
            if not self._sizes_as_traced:
                raise OtherPathError(self.index, operation.name)
            return None
        if tensor.is_cpu:
            return self._samples.take(tensor, places)
        return self._samples.keep(tensor.take(places.to(tensor.device)).cpu())

    def _places_in(
        self, dense: Sequence[int], axes: Axes, shape: tuple[int, ...]
    ) -> torch.Tensor | None:
        """Flat indices to sample at; None where this model's result has not the traced shape."""
        whole = dense if self._sizes_as_traced else shape
        small = tuple(
            len(self._list_kept(axes[axis])) if axis in axes else size
            for axis, size in enumerate(whole)
        )
        if not math.prod(small) or len(small) != len(shape):
            return None
        if small == shape and not (axes and self._moves):
            return _flat_places_in(small)
        places = self._move(places_in(small, SAMPLES_EACH), axes)
        try:
            flat = np.ravel_multi_index(places, shape)
        except ValueError:  # a position lies outside the shape
            return None
        return self._indices.keep(torch.from_numpy(flat))

    def _list_kept(self, units: Ids) -> Ids:
        """Positions of the kept units in an array."""
        known = self._kept.get(id(units))  # ids are unique: records hold these arrays
        if known is None:
            known = self._kept[id(units)] = self._stays[units].nonzero()[0]
        return known

    def _move(self, places: Sequence[Ids], axes: Axes) -> tuple[Ids, ...]:
        """Positions in this model's result of the small model's positions."""
        del axes
        return tuple(places)


@lru_cache(maxsize=256)
def _flat_places_in(shape: tuple[int, ...]) -> torch.Tensor:
    """Where a tensor of this shape is sampled, the same in every run."""
    with torch.inference_mode(mode=False):  # it outlives the run
        return torch.from_numpy(flat_places_in(shape, SAMPLES_EACH))


_UNKNOWN = torch.empty(0)
"""Stands for positions that have not been computed yet."""


class PackedRows:
    """Short tensors, packed into large blocks.

    Small allocations that outlive large ones around them would keep the allocator from releasing
    these.
    """

    block = 2**14
    """Numbers in a block of short rows."""

    def __init__(self) -> None:
        self._unused: dict[tuple[torch.dtype, int], list[torch.Tensor]] = {}

    def keep(self, values: torch.Tensor) -> torch.Tensor:
        """A copy of some numbers."""
        return self._row(values.dtype, values.numel()).copy_(values)

    def take(self, tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """A tensor's values at some flat positions."""
        return torch.take(tensor, places, out=self._row(tensor.dtype, places.numel()))

    def _row(self, dtype: torch.dtype, length: int) -> torch.Tensor:
        """An unused row of this many numbers."""
        width = max(SAMPLES_EACH, 1 << (length - 1).bit_length())
        rows = self._unused.get((dtype, width))
        if not rows:  # all rows of a block at once: a slice takes longer than what is done with it
            block = torch.empty(max(1, self.block // width), width, dtype=dtype)
            rows = self._unused[dtype, width] = list(block.unbind())
        row = rows.pop()
        return row if length == width else row[:length]


class MaskedTwin(Sampled):
    """Runs the dense model as if the removed channels did not exist.

    Args:
        operations: operations of its trace.
        stays: mask of the units that are kept, shape (units,).
        frugal: whether to zero a convolution's weight instead of its input where that is smaller. A
            removed channel that is infinite or NaN still reaches the result then.
        sizes_as_traced: as for ``Sampled``.
    """

    _moves = True

    def __init__(
        self,
        operations: Sequence[OpRecord],
        stays: NDArray[np.bool_],
        *,
        frugal: bool = False,
        sizes_as_traced: bool = True,
    ) -> None:
        super().__init__(operations, stays, sizes_as_traced=sizes_as_traced)
        self._frugal = frugal
        self._positions: dict[tuple[int, bool, torch.device], torch.Tensor] = {}

    def do(
        self,
        operation: OpRecord,
        function: OpOverload,
        arguments: Arguments,
        keywords: Keywords,
    ) -> object:
        if not (operation.masks or operation.mixed):
            return function(*arguments, **keywords)
        return self.ignoring_removed(Call(function, arguments, keywords), operation)

    def ignoring_removed(self, call: Call, operation: OpRecord) -> object:
        """The operation's result without the removed channels."""
        if any(not self._stays[u].all() for _, axes in operation.mixed for u in axes.values()):
            return self._on_kept_channels(call, operation)
        return self.ignore_removed(call, operation).run()

    def _move(self, places: Sequence[Ids], axes: Axes) -> tuple[Ids, ...]:
        return tuple(
            self._list_kept(axes[axis])[at] if axis in axes else at
            for axis, at in enumerate(places)
        )

    def ignore_removed(self, call: Call, operation: OpRecord) -> Call:
        """The operation with zeros in place of removed channels."""
        changes: dict[int, torch.Tensor] = {}
        tensors = call.tensors()
        for mask in operation.masks:
            gone = self._index(mask.units, kept=False, device=tensors[mask.operand].device)
            if not gone.numel():
                continue
            of_input = mask.operand == 0 and mask.axis == 1
            if self._frugal and of_input and _has_small_weight(call):
                call = call.with_arguments(weight=_mask_weight(call, gone))
            else:
                present = changes.get(mask.operand, tensors[mask.operand])
                changes[mask.operand] = present.index_fill(mask.axis, gone, 0)
        return call.with_tensors(changes) if changes else call

    def _on_kept_channels(self, call: Call, operation: OpRecord) -> object:
        """Run an operation that mixes channels on kept ones only; fill its result with ones."""
        tensors = call.tensors()
        changes = {
            number: self._compress(tensors[number], axes) for number, axes in operation.mixed
        }
        small = call.with_tensors(changes)
        if call.packet in (aten.layer_norm, aten.rms_norm, aten.native_layer_norm):
            rank = len(call["normalized_shape"])
            small = small.with_arguments(normalized_shape=list(changes[0].shape[-rank:]))
        elif call.packet is aten.group_norm and operation.groups is not None:
            small = small.with_arguments(num_groups=int(self._stays[operation.groups].sum()))
        output = small.run()
        for tensor, (shape, axes) in zip(iterate_tensors(output), operation.outputs, strict=True):
            whole = self._expand(tensor, shape, axes)
            if isinstance(output, torch.Tensor):
                return whole
            if isinstance(output, (list, tuple)):
                output = type(output)(whole if item is tensor else item for item in output)
        return output

    def _compress(self, tensor: torch.Tensor, axes: Axes) -> torch.Tensor:
        for axis, units in axes.items():
            tensor = tensor.index_select(axis, self._index(units, True, tensor.device))
        return tensor

    def _expand(self, tensor: torch.Tensor, shape: Sequence[int], axes: Axes) -> torch.Tensor:
        for axis, units in axes.items():
            longer = list(tensor.shape)
            longer[axis] = shape[axis]
            index = self._index(units, True, tensor.device)
            tensor = tensor.new_ones(longer).index_copy(
                axis, index, tensor
            )  # ones, since a division may follow
        return tensor

    def _index(self, units: Ids, kept: bool, device: torch.device) -> torch.Tensor:
        key = (id(units), kept, device)  # ids are unique: records hold these arrays
        known = self._positions.get(key)
        if known is None:
            stays = self._stays[units]
            places = (stays if kept else ~stays).nonzero()[0]
            known = self._positions[key] = torch.from_numpy(places).to(device)
        return known


def _has_small_weight(call: Call) -> bool:
    """Whether a convolution's weight takes less memory than its input."""
    if call.packet not in (aten.conv1d, aten.conv2d, aten.conv3d):
        return False
    return bool(call["weight"].numel() < call["input"].numel())


def _mask_weight(call: Call, gone: torch.Tensor) -> torch.Tensor:
    """The convolution's weight with zeros where it reads these input channels."""
    weight: torch.Tensor = call["weight"].detach()
    groups = call.get("groups", 1)
    if groups == 1:
        return weight.index_fill(1, gone, 0)
    inside = weight.shape[1]  # input channels of each group
    if inside == 1 and len(weight) == groups:  # each filter reads a channel of its own
        return weight.index_fill(0, gone, 0)
    if inside == 1:  # each group reads one
        by_group: torch.Tensor = weight.unflatten(0, (groups, -1)).index_fill(0, gone, 0)
        return by_group.flatten(0, 1)
    weight = weight.clone()
    weight.unflatten(0, (groups, -1))[gone // inside, :, gone % inside] = 0
    return weight
