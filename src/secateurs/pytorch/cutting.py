"""Making a cut and proving it: the public functions for PyTorch models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, overload

import torch
from torch import nn

from secateurs.channels.cut import Cut
from secateurs.channels.independent import unmixed
from secateurs.channels.latest import latest_network
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, Proof, keep_report_
from secateurs.errors import CutError, ModelError
from secateurs.pytorch.huggingface import describe_cut_
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import check_model, format_inputs, parse_example_inputs
from secateurs.pytorch.model.outputs import Name
from secateurs.pytorch.model.tensors import check_values, list_tensors
from secateurs.pytorch.proof.comparison import prove
from secateurs.pytorch.proof.independent import prove_independently
from secateurs.pytorch.surgery.slicing import check_tensors, cut_copy, cut_optimizer
from secateurs.pytorch.trace_model import TracedModel, trace


@overload
def apply(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    *,
    network: Network | None = ...,
    proof: bool | Literal["independent"] = ...,
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
) -> tuple[nn.Module, torch.optim.Optimizer]: ...


def apply(
    model: nn.Module,
    cut: Cut,
    example_inputs: object,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    network: Network | None = None,
    proof: bool | Literal["independent"] = True,
) -> nn.Module | tuple[nn.Module, torch.optim.Optimizer]:
    """Make a cut: a new model, proven against the masked twin of the old one, which stays as it is.

    Args:
        model: the model the cut was planned for.
        cut: what goes.
        example_inputs: what to run both models on for the proof.
        optimizer: of the model, if it is being trained; its state is sliced along.
        network: the model's trace, if there is one already; without it the model is traced again.
        proof: False leaves the proof out; "independent" adds a second one, which asks nothing of
            the rules: the dense model with the weights that read these channels at zero must answer
            what the small one answers. It takes about four passes for each tensor that is cut.

    Returns:
        The small model; ``secateurs.report_of`` gives the proof and everything removed so far.
        With an optimizer, (small model, its optimizer).

    Raises:
        CutError: the cut does not fit the model, or the proof does not hold. Nothing is left
            behind.
    """
    model = check_model(model)
    if proof not in (True, False, "independent"):
        raise CutError(f'proof: expected True, False or "independent"; received {proof!r}')
    leaves = list_tensors(model)
    check_tensors(leaves, cut)
    if proof:
        otherwise = "leave the proof out (proof=False)"
        check_values(model, example_inputs, who="the proof", otherwise=otherwise)
    if proof:
        network = _network_of(model, example_inputs, network, cut)
    small = cut_copy(model, cut, leaves=leaves)
    describe_cut_(small, cut)
    evidence = None
    if proof and network is not None:
        evidence = _prove(network, small, cut, example_inputs)
        if proof == "independent":
            exact = unmixed(network, cut)
            second = prove_independently(model, exact, example_inputs)
            evidence = replace(evidence, independent=second)
    if cut.caches:
        _fill_caches_(small, example_inputs)
    keep_report_(small, CutReport.after(model, cut, evidence))
    if optimizer is None:
        return small
    return small, cut_optimizer(optimizer, model, small, cut)


def delete_channels(
    model: nn.Module,
    channels: Mapping[str, Sequence[int]],
    example_inputs: object,
    *,
    outputs: Name | Sequence[Name] | None = None,
) -> nn.Module:
    """Surgery by hand: remove these filters and whatever is coupled to them, with proof.

    Args:
        model: unchanged.
        channels: layer name -> indices of the filters to remove, such as ``{"layer1.0.conv1": [0,
            4]}``.
        example_inputs: what the model's forward takes.
        outputs: names of the outputs that are used, as for ``trace``.

    Returns:
        A new, smaller model; ``secateurs.report_of`` gives the proof.

    Raises:
        UnknownNameError: no such layer.
        CutError: a filter that may not go, and why.
    """
    network = trace(model, example_inputs, outputs=outputs)
    return apply(model, network.cut_of_layers(channels), example_inputs, network=network)


def _fill_caches_(small: nn.Module, example_inputs: object) -> None:
    """Let a first pass make what the dense model had kept of one, such as a normed weight."""
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
    model: nn.Module, example_inputs: object, network: Network | None, cut: Cut
) -> Network:
    """The trace to prove with: the one given, the latest of this model, or a new one."""
    if network is not None and _is_of(network, model):
        return network
    known = latest_network(model)
    fresh = known if known and _is_of(known, model) else trace(model, example_inputs)
    if fresh.cut({name: c.removed for name, c in cut.channels.items()}).tensors != cut.tensors:
        raise CutError(
            "expected a cut whose channels and tensors agree on this model; received one planned "
            "for "
            "another. Plan it again on this model."
        )
    return fresh


def _is_of(network: Network, model: nn.Module) -> bool:
    """Whether the network was traced from exactly this model, as it is now."""
    source = network.source
    if not isinstance(source, TracedModel) or source.model is not model:
        return False
    own = share_tensors(model, source.caches) if source.caches else model
    present = {leaf.name: leaf.tensor for leaf in list_tensors(own)}
    return present.keys() == source.tensors.keys() and all(
        present[name] is tensor for name, tensor in source.tensors.items()
    )
