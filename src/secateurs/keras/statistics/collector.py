"""Collect criteria's statistics in one pass of calibration data through a Keras model.

The statistics are of the values that consumers read, in every call of the model's graph. Sums of
values are taken while the model runs. Gradients are taken with respect to gates of ones that
multiply these values. The user's model is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch, iterate_batches
from secateurs.calibration.before_pooling import Activation
from secateurs.calibration.collector import StatisticsCollector
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import Slopes, ZeroCounts, channel_index
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network
from secateurs.errors import DataError
from secateurs.keras.internals import compile_function, gradient_of, graph_of
from secateurs.keras.model.example_inputs import as_arrays, make_inputs
from secateurs.keras.model.tensors import present_values
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.activation_sites import (
    ActivationChange,
    ActivationPlace,
    Listening,
    Unseen,
    places_of,
    run,
)
from secateurs.keras.statistics.before_pooling import SEPARABLE, Pooling, ZerosBefore
from secateurs.keras.statistics.loss import BatchLoss, PerExampleLoss
from secateurs.keras.trace_model import source_of
from secateurs.keras.tracing.interpreter import CallSite, RunStep, as_it_is


def start_pass(
    network: Network, needs: Need, data: object, loss: BatchLoss | None, caller: str
) -> tuple[Pass, Iterator[CalibrationBatch]]:
    """Return a new pass, and the iterator over the batches that it is to process."""
    source = source_of(network)
    objective = PerExampleLoss(loss, caller, source.model)
    if source.example_inputs is None:
        make_inputs(source.model, {})  # raises, with the reason in its message
    labels = bool(needs & Need.LOSS) and objective.needs_labels
    stream = iterate_batches(data, source.example_inputs, caller, labels=labels)
    first = next(stream)  # raises where there is none
    return Pass(network, needs, objective, first, caller), chain([first], stream)


_Sums = tuple[int, BackendTensor, BackendTensor, BackendTensor, BackendTensor]
"""(number of values per index, then per image: number of zeros, sum of absolute values, sum, sum of
squares, each of shape (images, indices))."""

_Summed = tuple[_Sums, list[tuple[int, BackendTensor]], list[BackendTensor]]
"""Statistics of a reading: its sums, (values, zeros) of the activations it was pooled from, and its
values by group, each of shape (rows, channels)."""

Around = Callable[[RunStep, CallSite, Sequence[object], dict[str, object]], object]
"""Wrapper around a step function: called in its place, with the step as first argument."""


@dataclass(frozen=True, eq=False, slots=True)
class ChannelRead:
    """A site, and what a first run showed about it.

    Attributes:
        place: the site.
        number: index of its reading; consumers of the same values share one.
        by_image: whether images lie along the first axis of the tensor that is read.
        before: activations that the values are pooled from; empty if they are not pooled.
    """

    place: ActivationPlace
    number: int
    by_image: bool
    before: tuple[Activation, ...] = ()


@dataclass(eq=False)
class Pass(StatisticsCollector):
    """The sums of one pass, batch by batch.

    Attributes:
        objective: the loss.
        first: first batch; it shows how the model treats images.
        caller: name of the caller, for error messages.
    """

    objective: PerExampleLoss
    first: CalibrationBatch
    caller: str = "gather"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = source_of(self.network)
        known = list(present_values(self.source.model).values())
        self._variables = [variable for variable, _ in known]
        self._values = [value for _, value in known]
        self._places, unseen = places_of(self.network)
        self.reads = self._find_reads()
        _check_seen(self.network, [read.place for read in self.reads.values()], unseen, self.caller)
        for number, place in ((read.number, read.place) for read in self.reads.values()):
            self.note_reader(number, place.layer, place.units, place.reader_norm)
        self._pooled = {read.number: read.before for read in self.reads.values()}
        self._rows = self._where_groups_lie() if self.needs & Need.GRAMS else {}
        self._statistics = compile_function(self._sum_up)
        self._gate_slopes = gradient_of(self._sum_gated_losses)
        self._weights = [
            leaf
            for leaf in self.source.leaves.values()
            if self.network.tensors[leaf.name].is_parameter
            and keras.backend.is_float_dtype(leaf.variable.dtype)
        ]
        self._weight_slopes = gradient_of(self._loss_of_weights)

    # -- running the model

    def arrays(self, batch: CalibrationBatch) -> list[NDArray[np.generic]]:
        """Return a batch's images as a flat list of the model's inputs."""
        return as_arrays(batch.images, self.source.model)

    def labels(self, batch: CalibrationBatch) -> BackendTensor | None:
        """Return a batch's labels as a checked tensor; None where there are none."""
        shapes = [(len(batch), *tensor.shape[1:]) for tensor in graph_of(self.source.model).outputs]
        if None in shapes[0]:
            shapes = [tuple(output.shape) for output in self.outputs(self.arrays(batch))]
        labels = self.objective.check_labels(shapes, batch.labels)
        if labels is None:
            return None
        tensor: BackendTensor = keras.ops.convert_to_tensor(labels)
        return tensor

    def outputs(
        self,
        arrays: Sequence[NDArray[np.generic]],
        step: RunStep = as_it_is,
        values: Sequence[BackendTensor] | None = None,
    ) -> list[BackendTensor]:
        """Run the model and return its outputs, flat."""
        values = self._values if values is None else values
        return run(self.source.model, step, self._variables, values, arrays)

    def run_gated(
        self,
        gates: Sequence[BackendTensor],
        arrays: Sequence[NDArray[np.generic]],
        values: Sequence[BackendTensor],
        around: Around | None = None,
    ) -> list[BackendTensor]:
        """Run the model with gates multiplied to the values that are read; return its outputs.

        Args:
            gates: one gate per reading, of shape (images or 1, indices).
            arrays: flat list of inputs.
            values: values of the model's variables.
            around: wrapper around the step function.
        """

        def gate(place: ActivationPlace, tensor: BackendTensor) -> BackendTensor:
            factors = gates[self.reads[id(place)].number]
            sizes = [1] * len(tensor.shape)
            sizes[place.axis] = factors.shape[1]
            if place.axis % len(sizes):
                sizes[0] = factors.shape[0]
            gated: BackendTensor = tensor * keras.ops.cast(
                keras.ops.reshape(factors, sizes), tensor.dtype
            )
            return gated

        step = self.listening(gate)
        return self.outputs(arrays, step if around is None else partial(around, step), values)

    def listening(self, change: ActivationChange) -> Listening:
        """Return a step function that passes what is read through ``change``."""
        places = [read.place for read in self.reads.values()]
        return Listening(self.source.operations, places, change)

    @property
    def widths(self) -> list[int]:
        """Number of indices of each reading."""
        return [len(reading.units) for reading in self.readings]

    @property
    def values(self) -> list[BackendTensor]:
        """The current values of the model's variables."""
        return self._values

    # -- what is read where

    def _find_reads(self) -> dict[int, ChannelRead]:
        """Run three images; map each site (by ``id``) to what the run shows, in execution order.

        Three, because a tensor whose first axis has length three then most likely holds images.
        """
        batch = self.first.rows(np.arange(3) % len(self.first))
        numbers: dict[tuple[int, int, bytes], int] = {}
        found: dict[int, ChannelRead] = {}
        alive: list[BackendTensor] = []  # references, so that no id is reused

        def look(place: ActivationPlace, tensor: BackendTensor) -> BackendTensor:
            alive.append(tensor)
            axis = place.axis % len(tensor.shape)
            key = (id(tensor), axis, place.units.tobytes())
            number = numbers.setdefault(key, len(numbers))
            by_image = axis > 0 and tensor.shape[0] == 3
            before = (
                pooling.activations_inside(place.step, place.units)
                if isinstance(place.inner, SEPARABLE) and place.inner.depth_multiplier == 1
                else pooling.activations_of(tensor, place.units)
            )
            found.setdefault(id(place), ChannelRead(place, number, by_image, before))
            return tensor

        pooling = Pooling(self.source.operations, self.network.solution)
        step = partial(pooling, Listening(self.source.operations, self._places, look))
        compile_function(lambda arrays, values: self.outputs(arrays, step, values))(
            self.arrays(batch), self._values
        )
        return found

    def _where_groups_lie(self) -> dict[int, list[tuple[str, Ids]]]:
        """Map each reading to (name, indices of each channel) of the groups it reads."""
        return {
            number: list(self.groups_among(reading.units))
            for number, reading in enumerate(self.readings)
        }

    # -- values

    def add_values(self, batch: CalibrationBatch) -> None:
        """Add a batch to the readings, the Gram matrices or both, as needed."""
        found = self._statistics(self.arrays(batch), self._values)
        for number, (sums, before, tables) in enumerate(found):
            reading = self.readings[number]
            if self.needs & Need.ACTIVATIONS:
                none_yet = tuple(ZeroCounts(part.units) for part in self._pooled[number])
                reading.activations = reading.activations or none_yet
                for part, (values, zeros) in zip(reading.activations, before, strict=True):
                    part.add(int(values), _numpy(zeros).sum(0))
            count, *totals = (_numpy(total) for total in sums)
            if self.needs & Need.ACTIVATIONS:
                reading.add(int(count), *(total.sum(0) for total in totals))
            for (name, _), table in zip(self._rows.get(number, ()), tables, strict=True):
                seen = _numpy(table)  # float64: variances are small differences
                self.gram_of(name, number, seen.shape[1]).add_values(seen)

    def _sum_up(
        self, arrays: Sequence[NDArray[np.generic]], values: Sequence[BackendTensor]
    ) -> list[_Summed]:
        """Return, for each reading, the sums of its values per image and its values by group."""
        found: dict[int, tuple[_Sums, list[BackendTensor]]] = {}

        def look(place: ActivationPlace, tensor: BackendTensor) -> BackendTensor:
            number = self.reads[id(place)].number
            if number not in found:
                found[number] = self._sums(number, place, tensor)
            return tensor

        pooled = self._pooled if self.needs & Need.ACTIVATIONS else {}
        wanted = chain.from_iterable(pooled.values())
        step = ZerosBefore(self.listening(look), self.source.operations, wanted)
        self.outputs(arrays, step, values)
        return [
            (sums, [step.found[part] for part in pooled.get(number, ())], tables)
            for number, (sums, tables) in sorted(found.items())
        ]

    def _sums(
        self, number: int, place: ActivationPlace, tensor: BackendTensor
    ) -> tuple[_Sums, list[BackendTensor]]:
        """Sum a site's values per image, and tabulate them by group."""
        ops = keras.ops
        images = tensor.shape[0] if place.axis % len(tensor.shape) else 1
        seen = ops.cast(ops.moveaxis(tensor, place.axis, -1), "float32")
        # Summed per image here and over images in float64: float32 sums over all would lose digits.
        seen = ops.reshape(seen, (images, -1, len(place.units)))
        sums = (
            seen.shape[0] * seen.shape[1],
            ops.sum(ops.cast(seen == 0, "float32"), axis=1),
            ops.sum(ops.abs(seen), axis=1),
            ops.sum(seen, axis=1),
            ops.sum(ops.square(seen), axis=1),
        )
        tables = []
        for _, rows in self._rows.get(number, ()):
            columns = ops.take(seen, rows.T.ravel().astype(np.int32), axis=2)
            tables.append(ops.reshape(columns, (-1, len(rows))))
        return sums, tables

    # -- gradients

    def add_gates(self, batch: CalibrationBatch) -> None:
        """Add a batch to the sums over gates."""
        for slopes in self.slopes(batch):
            self.gates.add(slopes)

    def slopes(self, batch: CalibrationBatch) -> Iterator[Slopes]:
        """Iterate over the gradients of each image's loss with respect to gates, in chunks."""
        if all(read.by_image for read in self.reads.values()):
            yield self._slopes(batch, len(batch))
            return
        # In a batch, gradients of different images could not be told apart here; so one at a time.
        for image in range(len(batch)):
            yield self._slopes(batch.rows(slice(image, image + 1)), 1)

    def _slopes(self, batch: CalibrationBatch, rows: int) -> Slopes:
        """Return, for each reading, (units, loss gradients of shape (images, indices))."""
        gates = [keras.ops.ones((rows, width)) for width in self.widths]
        found = self._gate_slopes(gates, self.arrays(batch), self.labels(batch), self._values)
        return [(reading.units, slope) for reading, slope in zip(self.readings, found, strict=True)]

    def _sum_gated_losses(
        self,
        gates: Sequence[BackendTensor],
        arrays: Sequence[NDArray[np.generic]],
        labels: BackendTensor | None,
        values: Sequence[BackendTensor],
    ) -> BackendTensor:
        losses = self.objective.losses(self.run_gated(gates, arrays, values), labels)
        total: BackendTensor = keras.ops.sum(losses)
        return total

    def add_squared_gradients(self, image: CalibrationBatch) -> None:
        """Add one image to the curvature."""
        weights = [keras.ops.stop_gradient(leaf.variable.value) for leaf in self._weights]
        found = self._weight_slopes(weights, self.arrays(image), self.labels(image), self._values)
        for leaf, slope in zip(self._weights, found, strict=True):
            known = self.curvature.setdefault(leaf.name, np.zeros(leaf.shape))
            known += np.square(np.asarray(slope, np.float64))

    def _loss_of_weights(
        self,
        weights: Sequence[BackendTensor],
        arrays: Sequence[NDArray[np.generic]],
        labels: BackendTensor | None,
        values: Sequence[BackendTensor],
    ) -> BackendTensor:
        replaced = {
            id(leaf.variable): value for leaf, value in zip(self._weights, weights, strict=True)
        }
        mixed = [
            replaced.get(id(variable), value)
            for variable, value in zip(self._variables, values, strict=True)
        ]
        losses = self.objective.losses(self.outputs(arrays, as_it_is, mixed), labels)
        total: BackendTensor = keras.ops.sum(losses)
        return total


def _check_seen(
    network: Network, places: Sequence[ActivationPlace], unseen: Sequence[Unseen], caller: str
) -> None:
    """Raise for groups whose values cannot be observed anywhere."""
    for hidden in unseen:
        for group in network.groups:
            if not len(channel_index(network, group, hidden.units)):
                continue
            if not any(len(channel_index(network, group, place.units)) for place in places):
                raise DataError(
                    f"{caller}: expected values of {group.name} that can be recorded; they are "
                    f"read only inside {hidden.layer}. Use a criterion of weights, such as 'l1'."
                )


def _numpy(tensor: BackendTensor | float) -> NDArray[np.float64]:
    return np.asarray(
        keras.ops.convert_to_numpy(tensor) if keras.ops.is_tensor(tensor) else tensor, np.float64
    )
