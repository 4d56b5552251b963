"""Repair of a cut without images, from the statistics that batch normalisation keeps.

Where a layer reads the result of another through batch normalisation and an activation, the means
of its inputs are known, and their covariances are estimated from the similarity of filters. Each
removed channel is regressed on the kept ones: their weights take over its contribution, and the
intercept takes the remaining constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.gaussian_moments import (
    ActivationFunction,
    correlation_of,
    moments_behind,
    stand_ins,
)
from secateurs.channels.cut import Cut, TensorCut
from secateurs.channels.network import Network
from secateurs.keras.internals import Layer, without_gradients
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.reconstruction.contractions import ConvolutionMap, EinsumMap
from secateurs.keras.reconstruction.program import GraphRef, GraphStep, Pieces, as_numbers
from secateurs.keras.reconstruction.sites import IDENTITIES, MOVES, Site, Sites
from secateurs.keras.trace_model import source_of

ELEMENTWISE = ("relu", "relu6", "silu", "gelu", "hard_silu", "leaky_relu", "elu", "tanh")
ACTIVATIONS = frozenset(getattr(keras.activations, name) for name in ELEMENTWISE)
AVERAGES = (
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
)
"""Layers that preserve the means of channels."""


@dataclass(frozen=True, eq=False, slots=True)
class _Read:
    """The channels that a contraction reads: a producer, its batch normalisation, an activation."""

    producer: Site
    norm: Layer
    activation: ActivationFunction

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(means (channels,), covariances (channels, channels)) after the activation."""
        known = self.producer.map
        channels = known.groups * known.outputs
        alike = np.eye(channels)
        if known.groups == 1:
            alike = correlation_of(self.producer.matrix()[0].T)
        shift, scale = np.zeros(channels), np.ones(channels)
        if self.norm.beta is not None:
            shift = as_numbers(self.norm.beta).astype(np.float64)
        if self.norm.gamma is not None:
            scale = as_numbers(self.norm.gamma).astype(np.float64)
        return moments_behind(shift, scale, alike, self.activation)


def repair_without_images_(network: Network, small: keras.Model, cut: Cut) -> list[str]:
    """Let kept channels take over removed ones, in place, where statistics are known.

    Args:
        network: trace of the dense model, which is unchanged.
        small: cut model; its weights are changed in place.
        cut: cut of the network.

    Returns:
        Names of the weights that changed.
    """
    source = source_of(network)
    if source.example_inputs is None:
        return []
    images = CalibrationBatch(source.example_inputs, None)
    program = Pieces(source.model, source.operations, images).program(2)
    smaller = Pieces(small, source.operations, images).program(2)
    names = {id(leaf.variable): leaf.name for leaf in list_tensors(source.model)}
    sites, targets = Sites(program, norms=False), Sites(smaller, norms=False)
    changed = []
    for number, site in sites.at.items():
        read = _read_by(site, sites, program.steps)
        name = names[id(site.map.kernel)]
        known = cut.tensors.get(name)
        if read is None or known is None or number not in targets.at:
            continue
        if _take_over_(site, read, known, targets.at[number]):
            changed.append(name)
    return changed


def _axes_of(site: Site) -> tuple[int, int, int] | None:
    """Return (input axis of the weight, output axis, inputs per channel); None if unsupported."""
    known = site.map
    if isinstance(known, ConvolutionMap) and not known.is_transposed and known.groups == 1:
        rank = len(known.kernel.shape)
        return rank - 2, rank - 1, known.taps
    if isinstance(known, EinsumMap) and known.words[1] == "io":
        return 0, 1, 1
    return None


def _read_by(site: Site, sites: Sites, steps: Sequence[GraphStep]) -> _Read | None:
    """What a contraction reads, if it is an activated result of batch normalisation."""
    axes = _axes_of(site)
    if axes is None or not site.has_intercept:
        return None
    channels = site.map.inputs // axes[2]
    ref: GraphRef = site.source
    activation: ActivationFunction = np.asarray
    while ref.step >= 0:
        step = steps[ref.step]
        layer = step.part.layer
        if isinstance(layer, layers.BatchNormalization):
            producer = sites.at.get(step.reads[0].step)
            if producer is None or not producer.normalised or producer.joint is not None:
                return None
            if producer.map.groups * producer.map.outputs != channels:
                return None  # a flatten made more inputs of each channel
            return _Read(producer, layer, activation)
        if len(step.reads) != 1:
            return None
        if _is_elementwise(layer):
            activation = _numeric(step)
        elif not isinstance(layer, (*MOVES, *IDENTITIES, *AVERAGES)):
            return None
        ref = step.reads[0]
    return None


def _is_elementwise(layer: object) -> bool:
    if isinstance(layer, layers.Activation):
        layer = layer.activation
    kinds = (layers.ReLU, layers.LeakyReLU, layers.ELU)
    return isinstance(layer, kinds) or any(layer is known for known in ACTIVATIONS)


def _numeric(step: GraphStep) -> ActivationFunction:
    def run(values: NDArray[np.float64]) -> NDArray[np.float64]:
        with without_gradients():
            tensor = keras.ops.convert_to_tensor(values, dtype="float32")
            (found,) = keras.tree.flatten(step.part.run([tensor], {}))
        return as_numbers(found).astype(np.float64)

    return run


def _take_over_(site: Site, read: _Read, known: TensorCut, target: Site) -> bool:
    """Write the weights that take over removed channels; return whether any had to."""
    axes = _axes_of(site)
    if axes is None or not known.removed.get(axes[0]):
        return False
    gone, kept = np.asarray(known.removed[axes[0]]), known.list_kept(axes[0])
    mixing, constant = stand_ins(*read.moments(), kept, gone)
    matrix = site.matrix()[0][:, known.list_kept(axes[1])]
    by_channel = matrix.reshape(-1, axes[2], matrix.shape[1])
    lost = by_channel[gone]
    stays = by_channel[kept] + np.einsum("gto,gk->kto", lost, mixing)
    missing = np.einsum("gto,g->o", lost, constant)
    bias = target.map.bias
    if bias is not None:
        missing = missing + target.map.bias_rows(as_numbers(bias)).reshape(-1)
    target.write_(stays.reshape(1, -1, stays.shape[-1]), missing[None])
    return True
