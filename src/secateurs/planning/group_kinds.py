"""Kinds of layers that a group's channels pass through, by which multiples are measured."""

from __future__ import annotations

import numpy as np

from secateurs.channels.network import Network
from secateurs.measurement.latency_model import Layer, WidthTerms

KINDS = ("depthwise", "kxk", "1x1")
"""Kinds in order of precedence: a group has the first kind that its channels enter or leave; a
linear layer counts as 1x1."""


def kinds_of(network: Network) -> dict[str, str]:
    """Group -> its kind.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Conv2d, Sequential
        >>> model = Sequential(Conv2d(3, 8, 3), Conv2d(8, 4, 1), Conv2d(4, 2, 1))
        >>> kinds_of(sec.trace(model, torch.zeros(1, 3, 8, 8)))
        {'0': 'kxk', '1': '1x1'}
    """
    places = {kind: place for place, kind in enumerate(KINDS)}
    least = np.full(network.solution.count, len(KINDS) - 1)
    for layer in WidthTerms(network).layers:
        for units in (layer.outputs, layer.inputs):
            if units is not None:
                atoms = np.unique(network.solution.atoms[units])
                least[atoms] = np.minimum(least[atoms], places[_kind_of(layer)])
    return {group.name: KINDS[int(least[group.channels].min())] for group in network.groups}


def _kind_of(layer: Layer) -> str:
    if layer.is_depthwise:
        return "depthwise"
    return "1x1" if layer.kernel == 1 else "kxk"
