"""Trace a Keras model into a ``Network``: one walk through its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.backends import Outputs
from secateurs.channels.blocks import Block
from secateurs.channels.cost import Product
from secateurs.channels.garbage import pause_garbage_collection
from secateurs.channels.latest import remember
from secateurs.channels.network import Network, Size
from secateurs.channels.tensors import Mask
from secateurs.errors import CutError, ModelError, SecateursError
from secateurs.keras.internals import device, graph_of, present_numbers
from secateurs.keras.model.example_inputs import (
    as_arrays,
    check_model,
    closed_code_error,
    format_inputs,
    input_shapes,
    make_inputs,
)
from secateurs.keras.model.tensors import ModelTensor, list_tensors
from secateurs.keras.surgery.dry_run import Tie, settle_
from secateurs.keras.tracing import rules
from secateurs.keras.tracing.blocks import find_blocks
from secateurs.keras.tracing.interpreter import CallSite, OpInterpreter
from secateurs.keras.tracing.op_record import OpRecord, Value
from secateurs.keras.tracing.tracer import NETWORK_INPUT, NETWORK_OUTPUT, Tracer


@dataclass(frozen=True, eq=False)
class TracedModel:
    """The Keras model behind a ``Network``, and the record of its trace.

    Attributes:
        model: the user's model, unchanged.
        example_inputs: inputs it was traced with, or generated ones; None if none can be generated,
            as for a model that takes text.
        operations: calls of its graph, in order, for the masked twin.
        leaves: its tensors, by name.
        read: weights whose removed channels the masked twin sets to zero, by (name, axis).
        reading: those of ``read`` that can be left alone if operands of these calls are masked.
        index_ranges: position of an input -> exclusive upper bound of its values, for inputs that
            hold indices.
    """

    model: keras.Model
    example_inputs: object
    operations: Sequence[OpRecord]
    leaves: Mapping[str, ModelTensor]
    read: Mapping[tuple[str, int], ModelTensor]
    reading: Mapping[tuple[str, int], Sequence[tuple[int, Mask]]]
    index_ranges: Mapping[int, int]
    framework: str = "keras"

    @property
    def device(self) -> str:
        """The type of the model's device: 'cpu', 'cuda', ..."""
        kind = device().partition(":")[0]
        return "cuda" if kind == "gpu" else kind

    def array(self, name: str) -> NDArray[np.generic]:
        """A tensor's current values, not to be written to; half precision becomes single."""
        leaf = self.leaves[name]
        if leaf.itemsize < 4:
            return leaf.array()
        return present_numbers(leaf.variable.value)

    def find_blocks(self, network: Network) -> Sequence[Block]:
        """List the residual blocks that can be removed whole, in the order in which they run."""
        given = self.example_inputs
        arrays = (
            make_inputs(self.model, self.index_ranges)
            if given is None
            else as_arrays(given, self.model)
        )
        return find_blocks(network, self.model, arrays)

    def configuration(self) -> None:
        """Return None: the configuration of a Keras model lists the width of every layer itself."""


def source_of(network: Network) -> TracedModel:
    """The traced Keras model behind a network."""
    if not isinstance(network.source, TracedModel):
        raise CutError(
            f"expected a network traced from Keras; received one from {network.source.framework}"
        )
    return network.source


@pause_garbage_collection()
def trace(
    model: keras.Model, example_inputs: object = None, *, outputs: Outputs | None = None
) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: built sequential, functional or subclassed model; unchanged.
        example_inputs: an array or tensor, or a tuple or dictionary of them. Optional where the
            model knows every length except the batch size; MACs are then per example.
        outputs: must be None. Use ``keras.Model`` to make a model with fewer outputs.

    Returns:
        The network, with ``.groups``, ``.frozen``, ``.params()`` and ``.macs()``; ``print`` shows a
        table.

    Raises:
        ModelError: the model is not a Keras model, is not built, has code that cannot be followed,
            or does not accept these inputs.
    """
    model = check_model(model, example_inputs)
    if outputs is not None:
        raise ModelError(
            f"outputs: expected None for a Keras model; received {outputs!r}. Make a model of the "
            "outputs that you use: keras.Model(model.inputs, [...])."
        )
    arrays = None if example_inputs is None else as_arrays(example_inputs, model)
    leaves = list_tensors(model)
    tracer = Tracer(leaves, rules.apply)
    shapes = input_shapes(model, arrays)
    _follow(model, tracer, shapes, example_inputs)
    source = TracedModel(
        model,
        _examples(model, tracer) if example_inputs is None else example_inputs,
        tracer.operations,
        {leaf.name: leaf for leaf in leaves},
        tracer.read,
        tracer.reading(),
        tracer.index_ranges,
    )
    network = settle_(tracer, model, shapes, lambda ties: _network(tracer, leaves, source, ties))
    return remember(model, network)


def _network(
    tracer: Tracer, leaves: Sequence[ModelTensor], source: TracedModel, ties: Sequence[Tie]
) -> Network:
    """Build the network from the solved equations."""
    sizes = [
        Size(owner, attribute, position, Product(1, units))
        for (owner, attribute, position), units in tracer.sizes.items()
    ]
    return Network(
        [leaf.describe() for leaf in leaves],
        tracer.contractions,
        sizes,
        tracer.mixings,
        tracer.equations.solve(ties),
        source,
        name=source.model.name,
        layer_channels=tracer.layer_channels,
    )


def _examples(
    model: keras.Model, tracer: Tracer
) -> NDArray[np.generic] | tuple[NDArray[np.generic], ...] | None:
    try:
        arrays = make_inputs(model, tracer.index_ranges)
    except ModelError:  # asked for later, by calls that need values
        return None
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _step(
    tracer: Tracer,
    model: keras.Model,
    site: CallSite,
    arguments: Sequence[object],
    keywords: dict[str, object],
) -> object:
    """Trace one call; refuse a subclassed model whose code could not be opened into calls."""
    if site.operation is model:
        raise closed_code_error(model, site.closed)
    return tracer.step(site, arguments, keywords)


def _follow(
    model: keras.Model, tracer: Tracer, shapes: Sequence[tuple[int, ...]], example_inputs: object
) -> None:
    """Run the tracer through the graph; explain errors and freeze the outputs."""
    inputs = [
        Value(keras.KerasTensor(shape, dtype=like.dtype), why=NETWORK_INPUT, source=number)
        for number, (shape, like) in enumerate(zip(shapes, graph_of(model).inputs, strict=True))
    ]
    try:
        outputs = OpInterpreter(partial(_step, tracer, model)).run(model, inputs)
    except SecateursError:
        raise
    except Exception as error:
        where = tracer.operations[-1].layer if tracer.operations else model.name
        raise ModelError(
            f"{model.name}: its layer {where!r} raised {type(error).__name__}: {error}. "
            f"Received example_inputs of {format_inputs(example_inputs)}; expected inputs the "
            "model accepts."
        ) from error
    for value in outputs:
        tracer.freeze(value, NETWORK_OUTPUT)
