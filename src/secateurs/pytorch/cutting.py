"""Making and proving cuts: the public functions for PyTorch models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, overload

import torch
from torch import nn

from secateurs.channels.cut import Cut
from secateurs.channels.garbage import pause_garbage_collection
from secateurs.channels.independent import exclude_mixed
from secateurs.channels.latest import latest_network, network_to_prove
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, Proof, keep_report_
from secateurs.errors import CutError, ModelError
from secateurs.pytorch.huggingface import describe_cut_
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import check_model, format_inputs, parse_example_inputs
from secateurs.pytorch.model.outputs import OutputName, names_of
from secateurs.pytorch.model.tensors import ModelTensor, check_values, list_tensors
from secateurs.pytorch.proof.blocks import prove_blocks, prove_blocks_independently
from secateurs.pytorch.proof.comparison import prove
from secateurs.pytorch.proof.independent import prove_independently
from secateurs.pytorch.surgery.slicing import check_tensors, cut_copy, cut_optimizer
from secateurs.pytorch.trace_model import TracedModel, source_of, trace


@overload
def apply(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    *,
    network: Network | None = ...,
    proof: bool | Literal["independent"] = ...,
    outputs: OutputName | Sequence[OutputName] | None = ...,
) -> nn.Module: ...


@overload
def apply(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    *,
    optimizer: torch.optim.Optimizer,
    network: Network | None = ...,
    proof: bool | Literal["independent"] = ...,
    outputs: OutputName | Sequence[OutputName] | None = ...,
) -> tuple[nn.Module, torch.optim.Optimizer]: ...


@pause_garbage_collection()
def apply(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    network: Network | None = None,
    proof: bool | Literal["independent"] = True,
    outputs: OutputName | Sequence[OutputName] | None = None,
) -> nn.Module | tuple[nn.Module, torch.optim.Optimizer]:
    """Make a cut: a new model, proven against the masked twin of the old one, which is unchanged.

    Args:
        model: the model that the cut was planned for.
        cut: channels and blocks to remove.
        example_inputs: inputs that both models are run on for the proof; None: the network's own.
        optimizer: optimizer of the model, if it is being trained; its state is sliced likewise.
        network: trace of the model, if there is one already; otherwise the model is traced again.
        proof: False skips the proof. "independent" adds a second proof that does not rely on the
            tracing rules: the dense model, with zeros in the weights that read the removed
            channels, must give the small model's outputs. It takes about four forward passes for
            each tensor that is cut.
        outputs: names of the outputs that are used, as for ``trace``; None takes the network's.

    Returns:
        The small model; ``secateurs.report_of`` gives the proof and everything removed so far. With
        an optimizer, (small model, its optimizer).

    Raises:
        CutError: the cut does not fit the model, or the proof fails. No model is returned then.
    """
    model = check_model(model)
    if example_inputs is None and network is not None:
        example_inputs = source_of(network).example_inputs
    if outputs is not None and (network is None or not _uses(network, outputs)):
        network = trace(model, example_inputs, outputs=outputs)
    if proof not in (True, False, "independent"):
        raise CutError(f'proof: expected True, False or "independent"; received {proof!r}')
    leaves = list_tensors(model)
    check_tensors(leaves, cut)
    if proof:
        otherwise = "leave the proof out (proof=False)"
        check_values(leaves, example_inputs, caller="the proof", otherwise=otherwise)
    make = _without_blocks if cut.blocks else _narrower
    small, evidence = make(model, cut, example_inputs, network, proof, leaves)
    if cut.caches:
        _fill_caches_(small, example_inputs)
    keep_report_(small, CutReport.after(model, cut, evidence))
    if optimizer is None:
        return small
    return small, cut_optimizer(optimizer, model, small, cut, leaves)


def _narrower(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    network: Network | None,
    proof: bool | Literal["independent"],
    leaves: Sequence[ModelTensor] | None = None,
) -> tuple[nn.Module, Proof | None]:
    """A copy without the cut's channels, and its proof."""
    if proof:
        network = _network_of(model, example_inputs, network, cut, leaves)
    small = cut_copy(model, cut, leaves=leaves)
    describe_cut_(small, cut, example_inputs)
    if not proof or network is None:
        return small, None
    evidence = _prove(network, small, cut, example_inputs)
    if proof == "independent":
        exact = exclude_mixed(network, cut)
        outputs = source_of(network).outputs
        second = prove_independently(model, exact, example_inputs, outputs)
        evidence = replace(evidence, independent=second)
    return small, evidence


def _without_blocks(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    network: Network | None,
    proof: bool | Literal["independent"],
    leaves: Sequence[ModelTensor] | None = None,
) -> tuple[nn.Module, Proof | None]:
    """A copy without the cut's blocks, then without its channels; each step has its own proof."""
    first = Cut(blocks=cut.blocks)
    left = cut_copy(model, first, leaves=leaves)
    describe_cut_(left, first)
    evidence = None
    if proof:
        known = network is not None and _is_of(network, model)
        source = source_of(network) if known and network else _source(model, example_inputs)
        evidence = prove_blocks(source, left, cut.blocks, example_inputs)
        if proof == "independent" and not evidence.inexact:
            second = prove_blocks_independently(model, left, cut.blocks, example_inputs)
            evidence = replace(evidence, independent=second)
    rest = cut.without_blocks()
    if not rest.tensors:
        return left, evidence
    if not proof:
        return _narrower(left, rest, example_inputs, None, proof)
    outputs = None if network is None else source_of(network).outputs
    narrow = trace(left, example_inputs, outputs=outputs)
    like = replace(
        narrow.cut_like(rest),
        caches=rest.caches,
        rescalings=rest.rescalings,
        fields=rest.fields,
    )
    small, second_proof = _narrower(left, like, example_inputs, narrow, proof)
    return small, None if second_proof is None else replace(second_proof, blocks=evidence)


def _source(model: nn.Module, example_inputs: object) -> TracedModel:
    tensors = {leaf.name: leaf.tensor for leaf in list_tensors(model)}
    return TracedModel(model, example_inputs, (), tensors)


def delete_channels(
    model: nn.Module,
    channels: Mapping[str, Sequence[int]],
    example_inputs: object,
    *,
    outputs: OutputName | Sequence[OutputName] | None = None,
) -> nn.Module:
    """Remove given filters and whatever is coupled to them, with proof: surgery by hand.

    Args:
        model: model to cut; unchanged.
        channels: layer name -> indices of the filters to remove, such as ``{"layer1.0.conv1": [0,
            4]}``.
        example_inputs: inputs of the model's forward pass.
        outputs: names of the outputs that are used, as for ``trace``.

    Returns:
        A new, smaller model; ``secateurs.report_of`` gives the proof.

    Raises:
        UnknownNameError: there is no such layer.
        CutError: a filter is frozen; the message says why.
    """
    network = trace(model, example_inputs, outputs=outputs)
    return apply(model, network.cut_of_layers(channels), example_inputs, network=network)


def _fill_caches_(small: nn.Module, example_inputs: object) -> None:
    """Run one pass to rebuild the caches that the dense model kept, such as a normalised weight."""
    arguments, keywords = parse_example_inputs(example_inputs, small)
    modes = {module: module.training for module in small.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            small.eval()(*arguments, **keywords)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _prove(network: Network, small: nn.Module, cut: Cut, example_inputs: object) -> Proof:
    try:
        return prove(network, small, network.alive(network.removed_by(cut)), example_inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{network.name}: cannot be run for the proof on these example inputs, "
            f"{format_inputs(example_inputs)}: {' '.join(str(error).split())[:300]}. Expected "
            "inputs like those it was traced with."
        ) from error


def _network_of(
    model: nn.Module,
    example_inputs: object,
    network: Network | None,
    cut: Cut,
    leaves: Sequence[ModelTensor] | None,
) -> Network:
    """The trace to prove with: the given one, the latest trace of this model, or a new one."""
    return network_to_prove(
        cut,
        (network, latest_network(model)),
        lambda known: _is_of(known, model, leaves),
        lambda: trace(model, example_inputs),
    )


def _uses(network: Network, outputs: OutputName | Sequence[OutputName]) -> bool:
    """Whether a network was traced for these outputs."""
    known = source_of(network).outputs
    return known is not None and set(known) == set(names_of(outputs))


def _is_of(network: Network, model: nn.Module, leaves: Sequence[ModelTensor] | None = None) -> bool:
    """Whether the network was traced from exactly this model with its current tensors."""
    source = network.source
    if not isinstance(source, TracedModel) or source.model is not model:
        return False
    if source.caches:
        leaves = list_tensors(share_tensors(model, source.caches))
    present = {leaf.name: leaf.tensor for leaf in leaves or list_tensors(model)}
    return present.keys() == source.tensors.keys() and all(
        present[name] is tensor for name, tensor in source.tensors.items()
    )
