"""The latest trace of each model, so that ``apply(model, cut, x)`` need not trace it again."""

from __future__ import annotations

import weakref

from secateurs.channels.network import Network

# By the model's id: a network holds its model, so as long as there is one the id is that model's.
# It is held weakly: a trace is kept only for as long as its user keeps it.
_LATEST: weakref.WeakValueDictionary[int, Network] = weakref.WeakValueDictionary()


def remember(model: object, network: Network) -> Network:
    """Let this network be known as the latest trace of its model; returns it."""
    _LATEST[id(model)] = network
    return network


def latest_network(model: object) -> Network | None:
    """The latest trace of this model, if somebody still keeps it."""
    return _LATEST.get(id(model))
