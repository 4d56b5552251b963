"""Outputs of PyTorch models as arrays, and copies of models that a repair may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateurs.calibration.batches import CalibrationBatch
from secateurs.channels.arrays import Floats
from secateurs.channels.blocks import BlockCut
from secateurs.pytorch.model.copies import copy_model, share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.model.modes import evaluating
from secateurs.pytorch.model.outputs import DropUnused
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.reconstruction.static_part import StaticPart, make_static_part
from secateurs.pytorch.statistics.cut_evaluation import recalibrate_
from secateurs.pytorch.surgery.bypass import remove_blocks_
from secateurs.pytorch.tracing.op_call import iterate_tensors, map_tensors
from secateurs.reconstruction.calibration import furthest_from_training

HALF = (torch.float16, torch.bfloat16)


def as_arrays(tensors: Sequence[torch.Tensor]) -> list[NDArray[np.float32]]:
    """Convert tensors of any floating-point dtype to float32 NumPy arrays."""
    return [tensor.detach().float().cpu().numpy() for tensor in tensors]


def outputs(
    model: nn.Module, batches: Sequence[CalibrationBatch]
) -> Iterator[list[NDArray[np.float32]]]:
    """Floating-point outputs of a model in eval mode, batch by batch."""
    with evaluating(model):
        for batch in batches:
            with torch.inference_mode():
                arguments, keywords = parse_example_inputs(batch.images, model)
                found = list(iterate_tensors(_plain(model(*arguments, **keywords))))
            yield as_arrays([one for one in found if one.is_floating_point()])


def _plain(output: object) -> object:
    """An output as a plain dictionary, where it is a mapping of another class."""
    return dict(cast("Mapping[str, object]", output)) if hasattr(output, "keys") else output


def skip_blocks(model: nn.Module, blocks: Sequence[BlockCut]) -> nn.Module:
    """The model without these blocks, around the same tensors."""
    made = share_tensors(model)
    remove_blocks_(made, blocks)
    return made


def copy_of(model: nn.Module) -> nn.Module:
    """An independent copy, with the evidence of the model's cut."""
    return copy_model(model)


def arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Every tensor of a model by its first name; half precision becomes single."""
    return {
        leaf.name: (leaf.tensor.detach().float() if leaf.tensor.dtype in HALF else leaf.tensor)
        .detach()
        .cpu()
        .numpy()
        for leaf in list_tensors(model)
    }


def working_copy(
    model: nn.Module,
    example_inputs: object,
    used: tuple[str, ...] | None = None,
    *,
    is_by_values: bool = False,
) -> tuple[nn.Module, object]:
    """(a private copy in eval mode and at least single precision, the example inputs for it).

    Args:
        model: model; unchanged.
        example_inputs: its example inputs.
        used: names of the outputs in use, which alone the copy returns; None for all.
        is_by_values: whether values decide on its forward pass. If they decide on the outputs'
            shapes, the copy returns the results of the last layers before that instead.
    """
    twin = copy_model(model).eval()
    if any(leaf.tensor.dtype in HALF for leaf in list_tensors(twin)):
        twin = twin.float()
    example_inputs = map_tensors(example_inputs, lambda t: t.float() if t.dtype in HALF else t)
    if is_by_values:
        part, given = make_static_part(twin, example_inputs)
        if last_layers_of(part):
            return part, given
    if used is not None:
        twin.register_forward_hook(DropUnused(used))
    return twin, example_inputs


def last_layers_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose results a working copy returns in place of the model's outputs."""
    return tuple(dict(model.last_layers)) if isinstance(model, StaticPart) else ()


@torch.no_grad()
def copy_weights_(source: nn.Module, target: nn.Module) -> None:
    """Copy a model's values into another model, in the other's dtypes.

    Tensors of another shape are skipped: what a layer keeps of its last pass has the shape of that
    pass.
    """
    theirs = {leaf.name: leaf.tensor for leaf in list_tensors(source)}
    for leaf in list_tensors(target):
        value = theirs.get(leaf.name)
        if value is not None and value.shape == leaf.tensor.shape and value.is_floating_point():
            leaf.tensor.copy_(value)


def reestimate_moments(model: nn.Module, batches: Sequence[CalibrationBatch]) -> nn.Module | None:
    """A copy with re-estimated batch-normalisation statistics; None where there is none."""
    if not any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in model.modules()):
        return None
    twin = copy_model(model).eval()
    with torch.no_grad():
        recalibrate_(twin, batches)
    return twin


def unlike_calibration(
    model: nn.Module, batches: Sequence[CalibrationBatch]
) -> tuple[float, str] | None:
    """Distance of these images from what batch normalisation saw in training.

    Returns:
        (distance, layer): for each layer, the mean over channels of the squared difference of
        means, relative to the running variance; the largest one and its layer. None where no layer
        keeps running means.
    """
    sums: dict[str, list[tuple[Floats, int]]] = {}
    trained: dict[str, tuple[Floats, Floats]] = {}
    handles = []
    for name, norm in model.named_modules():
        if (
            not isinstance(norm, _BatchNorm)
            or norm.running_mean is None
            or norm.running_var is None
        ):
            continue
        trained[name] = _numbers(norm.running_mean), _numbers(norm.running_var) + norm.eps
        handles.append(norm.register_forward_pre_hook(_watching(sums.setdefault(name, []))))
    if not handles:
        return None
    try:
        for _ in outputs(model, batches):
            pass
    finally:
        for handle in handles:
            handle.remove()
    return furthest_from_training({n: parts for n, parts in sums.items() if parts}, trained)


def _numbers(tensor: torch.Tensor) -> Floats:
    found: Floats = tensor.detach().double().cpu().numpy()
    return found


def _watching(
    seen: list[tuple[Floats, int]],
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def watch(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        del module
        x = given[0].double()
        total = _numbers(x.movedim(1, 0).flatten(1).sum(1))
        seen.append((total, x.numel() // x.shape[1]))

    return watch
