"""The latest trace of each model, so that ``apply(model, cut, x)`` need not trace it again."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import CutError

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


def network_to_prove(
    cut: Cut,
    candidates: tuple[Network | None, ...],
    is_current: Callable[[Network], bool],
    trace: Callable[[], Network],
) -> Network:
    """The network that a cut is proven with.

    Args:
        cut: to be proven.
        candidates: the network that was given, and the latest trace of the model, if any.
        is_current: whether a network was traced from exactly this model, as it is now.
        trace: traces the model anew.

    Raises:
        CutError: the network that was not given does not know the cut.
    """
    given, latest = candidates
    if given is not None and is_current(given):
        return given
    fresh = latest if latest is not None and is_current(latest) else trace()
    known = {name: channels.removed for name, channels in cut.channels.items()}
    if fresh.cut(known).tensors != cut.tensors:
        raise CutError(
            f"{fresh.name}: expected a cut whose channels and tensors agree on this model; "
            "received one planned for another. Plan it again on this model."
        )
    return fresh
