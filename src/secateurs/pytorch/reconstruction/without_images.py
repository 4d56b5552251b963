"""Repair of a cut without images, from the statistics that batch normalisation keeps.

Where a layer reads the batch-normalised and activated result of another layer, the means and, from
the similarity of filters, the covariances of its input are known. A removed channel is expressed by
a linear combination of the kept ones: their weights take it over, and the intercept takes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.gaussian_moments import (
    ActivationFunction,
    correlation_of,
    moments_behind,
    stand_ins,
)
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.reconstruction.program import Pieces
from secateurs.pytorch.reconstruction.sites import IDENTITIES, MOVES, Site, Sites
from secateurs.pytorch.replay.tape import Ref, Step, TensorSource
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call

ACTIVATIONS: Mapping[object, torch.nn.Module] = {
    aten.relu: nn.ReLU(),
    aten.relu_: nn.ReLU(),
    aten.relu6: nn.ReLU6(),
    aten.silu: nn.SiLU(),
    aten.silu_: nn.SiLU(),
    aten.gelu: nn.GELU(),
    aten.hardswish: nn.Hardswish(),
    aten.hardswish_: nn.Hardswish(),
}
AVERAGES = {aten.mean, aten.avg_pool2d, aten.adaptive_avg_pool2d}
"""Operations that leave means unchanged."""


@dataclass(frozen=True, eq=False, slots=True)
class _Read:
    """The channels that a contraction reads: a producer, its batch normalisation, an activation."""

    producer: Site
    norm: Call
    activation: ActivationFunction

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(means (channels,), covariances (channels, channels)) after the activation."""
        filters = self.producer.map.matrix()
        channels = len(self.producer.map.weight)
        alone = self.producer.map.groups > 1
        alike = np.eye(channels) if alone else correlation_of(filters[0].T)
        shift = _vector(self.norm.get("bias"), 0.0, channels)
        scale = _vector(self.norm.get("weight"), 1.0, channels)
        return moments_behind(shift, scale, alike, self.activation)


def _vector(tensor: object, otherwise: float, length: int) -> NDArray[np.float64]:
    if not isinstance(tensor, torch.Tensor):
        return np.full(length, otherwise)
    found: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return found


def repair_without_images_(network: Network, small: nn.Module, cut: Cut) -> list[str]:
    """Let kept channels take over removed ones, in place, where statistics are known.

    Args:
        network: network of the dense model; unchanged.
        small: the cut model; its weights change.
        cut: cut of the network.

    Returns:
        Names of the changed weights.
    """
    source = source_of(network)
    images = CalibrationBatch(source.example_inputs, None)
    pieces = Pieces(source.model, source.operations, images)
    names = {id(leaf.tensor): leaf.name for leaf in list_tensors(source.model)}
    dims = [tensor.dim() for tensor in pieces.piece(images).inputs]
    sites = Sites(pieces.steps, pieces.shapes, dims, set(names), norms=False)
    targets = {leaf.name: leaf.tensor for leaf in list_tensors(small)}
    changed = []
    with torch.no_grad():
        for site in sites.at.values():
            read = _read_by(site, sites, pieces.steps)
            name = names[id(site.map.weight)]
            if read is not None and _take_over_(site, read, cut, names, targets):
                changed.append(name)
    return changed


def _read_by(site: Site, sites: Sites, steps: Sequence[Step]) -> _Read | None:
    """What a contraction reads, if it is an activated result of batch normalisation."""
    plain = site.map.geometry is None or not site.map.geometry.transposed
    if not plain or site.map.columns or site.map.groups > 1 or not site.has_intercept:
        return None
    reads: TensorSource = site.source
    activation: ActivationFunction = np.asarray
    while isinstance(reads, Ref):
        step = steps[reads.step]
        packet = step.function.overloadpacket
        if packet is aten.batch_norm:
            made = step.operands[0]
            producer = sites.at.get(made.step) if isinstance(made, Ref) else None
            # A transposed convolution has its outputs along another axis, and is skipped.
            if producer is None or not producer.normalised:
                return None
            if len(producer.map.weight) != site.map.weight.shape[1]:
                return None  # a flatten made several inputs of each channel
            return _Read(producer, Call(step.function, step.arguments, step.keywords), activation)
        if len(step.reads) != 1:
            return None
        if packet in ACTIVATIONS:
            activation = _numeric(ACTIVATIONS[packet])
        elif packet not in (*MOVES, *IDENTITIES, *AVERAGES):
            return None
        reads = step.reads[0]
    return None


def _numeric(module: nn.Module) -> ActivationFunction:
    def run(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = module(torch.from_numpy(values)).numpy()
        return found

    return run


def _take_over_(
    site: Site,
    read: _Read,
    cut: Cut,
    names: Mapping[int, str],
    targets: Mapping[str, torch.Tensor],
) -> bool:
    """Write the weights that take over removed channels; return whether any had to."""
    name = names[id(site.map.weight)]
    of = cut.tensors.get(name)
    if of is None or not of.removed.get(1):
        return False
    gone, kept = np.asarray(of.removed[1]), of.list_kept(1)
    outputs = torch.from_numpy(np.asarray(of.list_kept(0)))
    mixing, constant = (torch.from_numpy(one) for one in stand_ins(*read.moments(), kept, gone))
    weight = site.map.weight.detach().double()
    lost = weight[:, torch.from_numpy(gone)]
    weight = weight[:, torch.from_numpy(kept)] + torch.einsum("og...,gk->ok...", lost, mixing)
    missing = torch.einsum("og,g->o", lost.flatten(2).sum(2) if lost.dim() > 2 else lost, constant)
    small = targets[name]
    small.copy_(weight[outputs].to(small.dtype))
    if site.bias is not None:
        place = targets[names[id(site.bias)]]
        place.add_(missing[outputs].to(place.dtype))
    elif site.mean is not None:
        place = targets[names[id(site.mean)]]
        place.sub_(missing[outputs].to(place.dtype))
    return True
