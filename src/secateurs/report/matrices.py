"""Matrices of layers by filters, with one number for each filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateurs.channels.network import Network, Role

Matrix = NDArray[np.float64]


def by_layer(network: Network, scores: Mapping[str, ArrayLike]) -> dict[str, Matrix]:
    """The score of each filter of each layer; NaN if a filter cannot be pruned.

    Args:
        network: as traced.
        scores: group -> one score for each of its channels. Layers whose filters are coupled (a
            residual stream) share them.

    Returns:
        Layer -> array of shape (filters,), in the order of the network's tensors.
    """
    found: dict[str, Matrix] = {}
    for tensor in network.tensors.values():
        for axis, role in tensor.roles.items():
            if role is Role.FILTER:
                found.setdefault(tensor.layer, np.full(tensor.shape[axis], np.nan))
    for group in network.groups:
        values = np.asarray(scores[group.name], dtype=float)
        for member in group.with_role(Role.FILTER):
            row = found[member.layer]
            positions = network.positions(group, member)
            if positions.max(initial=-1) < len(row):
                row[positions] = values.reshape(-1, *[1] * (positions.ndim - 1))
    return {layer: row for layer, row in found.items() if not np.isnan(row).all()}


def layers_by_filters(
    values: Mapping[str, ArrayLike], layers: Sequence[str] | None = None
) -> tuple[list[str], Matrix]:
    """(layers, matrix of shape (layers, most filters)); NaN where a layer has fewer filters.

    Args:
        values: layer -> one number for each of its filters.
        layers: layers to include, in order; None for all.
    """
    chosen = list(values) if layers is None else list(layers)
    rows = [np.ravel(np.asarray(values[layer], dtype=float)) for layer in chosen]
    matrix = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return chosen, matrix


def l1_matrix(network: Network, layers: Sequence[str] | None = None) -> tuple[list[str], Matrix]:
    """Normalised L1 norms: mean absolute weight of each filter of each layer.

    Args:
        network: as traced.
        layers: layers to include; None for all that can be pruned.
    """
    from secateurs.criteria.scoring import score

    return layers_by_filters(by_layer(network, score(network, "l1_mean")), layers)


def apoz_matrix(
    network: Network, data: object, layers: Sequence[str] | None = None
) -> tuple[list[str], Matrix]:
    """APoZ: share of zeros among the values of each filter of each layer.

    Args:
        network: as traced.
        data: calibration images, as for ``secateurs.score``.
        layers: layers to include; None for all that can be pruned.
    """
    from secateurs.criteria.scoring import score

    busy = score(network, "apoz", data=data)  # 1 - APoZ, since the lowest score is pruned first
    shares = {name: 1 - values for name, values in busy.items()}
    return layers_by_filters(by_layer(network, shares), layers)
