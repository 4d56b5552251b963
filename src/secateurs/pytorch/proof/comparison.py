"""The proof of a cut: the small model against the masked twin of the dense one.

The masked twin is the dense model whose *consumers* ignore the removed channels: at each
convolution and matrix product their values are taken as zero. (Zeroing the filters that make them
would be wrong: after batch normalisation and ReLU a zero is no longer zero.) An operation that
mixes channels, such as layer normalisation, is run by the twin on the kept channels alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.channels.network import Network
from secateurs.channels.proof import Proof, inexact_operations, largest_mismatch
from secateurs.errors import CutError
from secateurs.pytorch.model.copies import copy_model, share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.proof.differences import (
    TOLERANCE,
    has_values,
    largest_difference,
    precision_of,
)
from secateurs.pytorch.proof.masked_twin import MaskedTwin, Sampled
from secateurs.pytorch.proof.smaller_images import crop_images
from secateurs.pytorch.trace_model import BY_VALUES, source_of
from secateurs.pytorch.tracing.records_by_layer import OtherPathError

NO_VALUES = (
    "expected outputs with numbers to compare; received none for these example inputs. Nothing can "
    "be proven; nothing was changed. Pass a batch of at least one; for a detector, an image in "
    "which it finds something."
)


def prove(
    network: Network,
    small: nn.Module,
    alive: NDArray[np.bool_],
    example_inputs: object,
) -> Proof:
    """Run the small model and the masked twin on the same inputs and compare.

    A difference that single precision may explain is checked again in double precision.

    Args:
        network: traced network of the dense model.
        small: the cut model.
        alive: mask of the atoms that are kept, shape (atoms,).
        example_inputs: inputs of the models' forward.

    Raises:
        CutError: the small model cannot run, the difference is larger than rounding explains, or
            the outputs are not finite, so that nothing can be proven.
    """
    proof = _prove_on_smaller_images(network, small, alive, example_inputs)
    if proof is not None:
        return proof
    dense, small = source_of(network).to_run(), share_tensors(small)
    proof = _compare(network, dense, small, alive, example_inputs, frugal=True)
    if not proof.holds:
        proof = _compare(network, dense, small, alive, example_inputs)
    if not proof.holds and precision_of(dense) is not torch.float64:
        proof = compare_in_double_precision(network, small, alive, example_inputs) or proof
    if not proof.holds:
        raise CutError(proof.refusal(network.name, "An operation") + _of_decisions(network))
    return proof


def _of_decisions(network: Network) -> str:
    """Another possible cause of a mismatch, for a model whose forward depends on values."""
    if not any(note.startswith(BY_VALUES) for note in network.notes):
        return ""
    return (
        " Or control flow in its forward() depends on values and takes another path without "
        "these channels: then pass example inputs that take the path that was traced."
    )


def _prove_on_smaller_images(
    network: Network,
    small: nn.Module,
    alive: NDArray[np.bool_],
    example_inputs: object,
) -> Proof | None:
    """The proof on cropped images; None where it fails, or the full images are needed.

    A model's forward may raise anything on smaller images, which says nothing about the cut.
    """
    source = source_of(network)
    images = crop_images(example_inputs, source.operations)
    if images is None:
        return None
    dense, small = source.to_run(), share_tensors(small)
    try:
        proof = _compare(
            network, dense, small, alive, images.inputs, frugal=True, sizes_as_traced=False
        )
    except Exception:  # noqa: BLE001 - a forward may raise anything on images of another size
        return None
    return replace(proof, images=images.text) if proof.holds else None


def compare_in_double_precision(
    network: Network, small: nn.Module, alive: NDArray[np.bool_], example_inputs: object
) -> Proof | None:
    """The proof in double precision; None where it fails there, or the models cannot run.

    Some models create tensors of single precision themselves, or cannot be copied. That says
    nothing about the cut, so the proof in single precision counts then.
    """
    try:
        dense = copy_model(source_of(network).to_run()).double()
        exact = _compare(
            network, dense, copy_model(small).double(), alive, _in_double(example_inputs)
        )
    except Exception:  # noqa: BLE001 - a forward may raise anything on an unexpected dtype
        return None
    return exact if exact.holds else None


def _compare(
    network: Network,
    dense: nn.Module,
    small: nn.Module,
    alive: NDArray[np.bool_],
    inputs: object,
    *,
    frugal: bool = False,
    sizes_as_traced: bool = True,
) -> Proof:
    """Run both models and compare outputs and samples; a mismatch is recorded, not raised."""
    arguments, keywords = parse_example_inputs(inputs, dense)
    operations = source_of(network).operations
    stays = network.solution.mark_kept(alive)
    twin = MaskedTwin(operations, stays, frugal=frugal, sizes_as_traced=sizes_as_traced)
    sampled = Sampled(operations, stays, sizes_as_traced=sizes_as_traced, beside=twin)
    # The full images, if needed afterwards, are run by new copies.
    twin.is_last = sampled.is_last = not sizes_as_traced
    try:
        expected = twin.run(dense, arguments, keywords)
    except OtherPathError as error:
        raise CutError(f"nothing can be proven: {error}. Nothing was changed.") from error
    try:
        received = sampled.run(small, arguments, keywords)
    except Exception as error:
        raise CutError(
            f"the cut model does not run: {type(error).__name__}: {error}. "
            f"A size is hard-coded in its forward(). Nothing was changed.{_of_decisions(network)}"
        ) from error
    if not (sizes_as_traced or (twin.has_done_all and sampled.has_done_all)):
        raise OtherPathError(twin.index, "the last")
    used = source_of(network).select_used
    received, expected = used(received), used(expected)
    is_empty = not has_values(received, expected)
    if is_empty and not (sampled.samples and _gives_values(network, dense, arguments, keywords)):
        raise CutError(NO_VALUES)
    difference, scale = largest_difference(received, expected)
    if not math.isfinite(scale):
        if frugal and sizes_as_traced:
            return _compare(network, dense, small, alive, inputs)
        raise CutError(
            f"the dense model's output is not finite on these inputs{_first_not_finite(dense)}; "
            "nothing can be proven. Check its weights and the example inputs."
        )
    factors = [1.0, *{rescaling.factor for rescaling in network.rescalings(alive)}]
    relative = TOLERANCE.get(precision_of(dense), 1e-4)
    inside, where = _largest_inside(sampled.samples, twin.samples, 10 * relative, factors)
    return Proof(
        difference,
        scale,
        relative * scale,
        inside,
        10 * relative,
        where,
        inexact_operations(network.mixings, stays),
        is_inside_only=is_empty,
    )


def _gives_values(
    network: Network, dense: nn.Module, arguments: Sequence[object], keywords: dict[str, object]
) -> bool:
    """Whether the dense model's outputs hold any value: a detector finds a box in an image."""
    source = source_of(network)
    everything = np.ones(len(network.solution.atoms), np.bool_)
    outputs = source.select_used(
        MaskedTwin(source.operations, everything).run(dense, arguments, keywords)
    )
    return has_values(outputs, outputs)


def _largest_inside(
    received: Sequence[tuple[str, torch.Tensor | None]],
    expected: Sequence[tuple[str, torch.Tensor | None]],
    tolerance: float,
    factors: Sequence[float],
) -> tuple[float, str]:
    """The largest mismatch between the models' samples of like operations, and its layer."""
    layers, ours, twins = [], [], []
    for (layer, mine), (_, theirs) in zip(received, expected, strict=False):
        if mine is not None and theirs is not None and mine.numel() == theirs.numel():
            layers.append(layer)
            ours.append(mine)
            twins.append(theirs)
    return largest_mismatch(layers, _as_arrays(ours), _as_arrays(twins), tolerance, factors)


def _as_arrays(samples: Sequence[torch.Tensor]) -> list[NDArray[np.float64]]:
    """Samples of any precision in double precision, converted all at once."""
    if not samples:
        return []
    numbers: NDArray[np.float64] = torch.cat([*samples]).double().numpy()
    lengths = [sample.numel() for sample in samples]
    ends = itertools.accumulate(lengths)
    return [numbers[end - length : end] for length, end in zip(lengths, ends, strict=True)]


def _in_double(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype.kind == "f" else value
    if isinstance(value, (list, tuple)):
        return type(value)(_in_double(item) for item in value)
    if isinstance(value, dict):
        return {key: _in_double(item) for key, item in value.items()}
    return value


def _first_not_finite(model: nn.Module) -> str:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f" ({name} holds NaN or infinity)"
    return ""
