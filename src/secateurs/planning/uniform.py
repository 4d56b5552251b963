"""The same width in every layer of a kind, which a configuration of one number can say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Role


def make_uniform(
    network: Network,
    scores: Mapping[str, NDArray[np.float64]],
    cut: Cut,
    skip: Sequence[str] = (),
) -> Cut:
    """A cut that removes as many channels from every group of a kind.

    Groups are of a kind where they are called alike but for numbers (``layers.0.mlp.up_proj``,
    ``layers.1.mlp.up_proj``) and are equally wide. Each loses as many as the one that lost most, so
    that a budget that was met stays met; which go is for the scores.

    Args:
        network: as traced.
        scores: for each group, one a channel.
        cut: of this network, as ``plan`` made it.
        skip: groups and layers that were left alone, which stay so; ``*`` matches anything.

    Returns:
        The cut.

    Example:
        >>> import numpy as np, secateurs as sec
        >>> from torch import nn, zeros
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> network = sec.trace(model, zeros(1, 2))
        >>> cut = network.cut({"0": [1]})
        >>> even = make_uniform(network, sec.score(network), cut)
        >>> [len(one.removed) for one in even.channels.values()]
        [1, 1]
    """
    kinds: dict[tuple[str, int], list[str]] = {}
    for group in network.groups:
        names = [group.name, *(m.layer for m in group.members if m.role is not Role.INPUT)]
        if not any(fnmatch(name, pattern) for name in names for pattern in skip):
            kinds.setdefault((re.sub(r"\d+", "#", group.name), len(group)), []).append(group.name)
    chosen: dict[str, Sequence[int]] = {}
    for names in kinds.values():
        gone = [cut.channels[name].removed if name in cut.channels else () for name in names]
        most = max(map(len, gone))
        for name, chosen_here in zip(names, gone, strict=True):
            order = np.argsort(scores[name], kind="stable").tolist()
            extra = [channel for channel in order if channel not in chosen_here][
                : most - len(chosen_here)
            ]
            chosen[name] = [*chosen_here, *extra]
    return network.cut({name: channels for name, channels in chosen.items() if channels})
