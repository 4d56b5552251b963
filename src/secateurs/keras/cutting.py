"""Making and proving cuts: the public functions for Keras models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import keras

from secateurs.backends import Outputs
from secateurs.channels.cut import Cut
from secateurs.channels.garbage import pause_garbage_collection
from secateurs.channels.independent import exclude_mixed
from secateurs.channels.latest import latest_network, network_to_prove
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, Proof, keep_report_
from secateurs.errors import CutError
from secateurs.keras.internals import Layer, Operation
from secateurs.keras.model.example_inputs import check_model
from secateurs.keras.model.tensors import ModelTensor, list_tensors, named_operations, path_of
from secateurs.keras.proof.blocks import prove_blocks, prove_blocks_independently
from secateurs.keras.proof.comparison import inputs_for, prove
from secateurs.keras.proof.independent import prove_independently
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.trace_model import TracedModel, trace


@pause_garbage_collection()
def apply(
    model: keras.Model,
    cut: Cut,
    example_inputs: object = None,
    *,
    optimizer: object = None,
    network: Network | None = None,
    proof: bool | Literal["independent"] = True,
    outputs: Outputs | None = None,
) -> keras.Model:
    """Make a cut: a new model, proven against the masked twin of the old one, which is unchanged.

    A compiled model yields a compiled one, with the same loss and metrics and an optimizer with the
    same settings whose state (momentum and so on) is sliced along with the weights.

    Args:
        model: model the cut was planned for.
        cut: channels and blocks to remove.
        example_inputs: inputs both models are run on for the proof; None generates random ones.
        optimizer: must be None. A compiled model has its own, whose state is sliced along.
        network: trace of the model, if there is one already; None traces the model again.
        proof: False skips the proof. "independent" adds a second proof that does not rely on the
            tracing rules: the dense model, with the weights that read the removed channels set to
            zero, must give the small model's outputs. It takes a few forward passes per cut tensor.
        outputs: must be None. Use ``keras.Model`` to make a model with fewer outputs.

    Returns:
        The small model, of the same class and with the same layer names.
        ``secateurs.report_of`` returns its proof and everything removed so far.

    Raises:
        CutError: the cut does not fit the model, or the proof fails. The model is unchanged.
    """
    model = check_model(model, example_inputs)
    if optimizer is not None:
        raise CutError(
            "optimizer: expected None for a Keras model; compile the model with it, "
            "model.compile(optimizer, loss), and its state is sliced with it"
        )
    if outputs is not None:
        trace(model, example_inputs, outputs=outputs)  # raises, with the remedy in its message
    if proof not in (True, False, "independent"):
        raise CutError(f'proof: expected True, False or "independent"; received {proof!r}')
    make = _without_blocks if cut.blocks else _narrower
    small, evidence = make(model, cut, example_inputs, network, proof)
    keep_report_(small, CutReport.after(model, cut, evidence))
    return small


def _narrower(
    model: keras.Model,
    cut: Cut,
    example_inputs: object,
    network: Network | None,
    proof: bool | Literal["independent"],
) -> tuple[keras.Model, Proof | None]:
    """A copy without the cut's channels, and its proof."""
    leaves = list_tensors(model)
    small = cut_copy(model, cut, leaves=leaves)
    if not proof:
        return small, None
    network = _network_of(model, example_inputs, network, cut, leaves)
    alive = network.alive(network.removed_by(cut))
    evidence = prove(network, small, cut, alive, example_inputs)
    if proof == "independent":
        arrays = inputs_for(network, example_inputs)
        second = prove_independently(model, exclude_mixed(network, cut), arrays)
        evidence = replace(evidence, independent=second)
    return small, evidence


def _without_blocks(
    model: keras.Model,
    cut: Cut,
    example_inputs: object,
    network: Network | None,
    proof: bool | Literal["independent"],
) -> tuple[keras.Model, Proof | None]:
    """A copy without the cut's blocks, then without its channels; each step has its own proof."""
    left = cut_copy(model, Cut(blocks=cut.blocks))
    evidence = None
    if proof:
        known = network if network is not None and _is_of(network, model) else None
        arrays = inputs_for(known or trace(model, example_inputs), example_inputs)
        evidence = prove_blocks(model, left, cut.blocks, arrays)
        if proof == "independent" and not evidence.inexact:
            second = prove_blocks_independently(model, left, cut.blocks, arrays)
            evidence = replace(evidence, independent=second)
    rest = cut.without_blocks()
    if not rest.tensors:
        return left, evidence
    if not proof:
        return _narrower(left, rest, example_inputs, None, proof)
    narrow = trace(left, example_inputs)
    small, second_proof = _narrower(left, narrow.cut_like(rest), example_inputs, narrow, proof)
    return small, None if second_proof is None else replace(second_proof, blocks=evidence)


def delete_channels(
    model: keras.Model,
    channels: Mapping[str | Layer, Sequence[int]],
    example_inputs: object = None,
    *,
    outputs: Outputs | None = None,
) -> keras.Model:
    """Remove given filters and whatever is coupled to them, with proof: surgery by hand.

    Args:
        model: model to cut; unchanged.
        channels: layer, or its name -> indices of the filters to remove, ``{"conv1": [0, 4]}``;
            for a recurrent layer, indices of its units.
        example_inputs: inputs of the model; optional where the model knows its input shapes.
        outputs: must be None, as for ``trace``.

    Returns:
        A new, smaller model; ``secateurs.report_of`` returns its proof.

    Raises:
        UnknownNameError: there is no such layer.
        CutError: a filter cannot be removed; the message gives the reason.
    """
    network = trace(model, example_inputs, outputs=outputs)
    named = {path_of(model, layer): indices for layer, indices in channels.items()}
    for name in named:
        _check_has_weights(model, name)
    return apply(model, network.cut_of_layers(named), example_inputs, network=network)


def _check_has_weights(model: keras.Model, name: str) -> None:
    """Refuse a layer without weights; name the layer that produces the channels it passes on."""
    operations = dict(named_operations(model))
    layer = operations.get(name)
    if layer is None or _has_weights(layer):
        return
    made_by = _upstream_layer(operations, layer)
    raise CutError(
        f"{name}: expected a layer with weights, whose filters are channels; received "
        f"{type(layer).__name__}, which has none. "
        + (f"Its channels are made by {made_by!r}: name that layer." if made_by else "")
    )


def _has_weights(operation: Operation) -> bool:
    return bool(getattr(operation, "weights", []))


def _upstream_layer(operations: Mapping[str, Operation], layer: Operation) -> str:
    """Return the path of the nearest upstream layer with weights, or ''."""
    paths = {id(operation): path for path, operation in operations.items()}
    seen: set[int] = set()
    waiting = [layer]
    while waiting:
        operation = waiting.pop(0)
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                before = tensor._keras_history.operation
                if id(before) in seen or before is None:
                    continue
                if _has_weights(before) and id(before) in paths:
                    return paths[id(before)]
                seen.add(id(before))
                waiting.append(before)
    return ""


def _network_of(
    model: keras.Model,
    example_inputs: object,
    network: Network | None,
    cut: Cut,
    leaves: Sequence[ModelTensor],
) -> Network:
    """The trace to prove with: the given one, the latest trace of this model, or a new one."""
    return network_to_prove(
        cut,
        (network, latest_network(model)),
        lambda known: _is_of(known, model, leaves),
        lambda: trace(model, example_inputs),
    )


def _is_of(
    network: Network, model: keras.Model, leaves: Sequence[ModelTensor] | None = None
) -> bool:
    """Whether the network was traced from exactly this model with its current variables."""
    source = network.source
    if not isinstance(source, TracedModel) or source.model is not model:
        return False
    present = {leaf.name: leaf.variable for leaf in leaves or list_tensors(model)}
    return present.keys() == source.leaves.keys() and all(
        variable is source.leaves[name].variable for name, variable in present.items()
    )
