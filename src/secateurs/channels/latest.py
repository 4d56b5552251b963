"""The latest trace of each model, so that ``apply(model, cut, x)`` need not trace it again."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import CutError

# Keyed by the model's id. A network holds its model, so while the network exists the id is that
# model's. Values are weak references: a trace lives only as long as its user keeps it.
_LATEST: weakref.WeakValueDictionary[int, Network] = weakref.WeakValueDictionary()


def remember(model: object, network: Network) -> Network:
    """Record this network as the latest trace of its model, and return it."""
    _LATEST[id(model)] = network
    return network


def latest_network(model: object) -> Network | None:
    """The latest trace of this model, if it is still alive."""
    return _LATEST.get(id(model))


def network_to_prove(
    cut: Cut,
    candidates: tuple[Network | None, ...],
    is_current: Callable[[Network], bool],
    trace: Callable[[], Network],
) -> Network:
    """Choose the network that a cut is proven with.

    Args:
        cut: the cut to prove.
        candidates: the network that the user passed, and the latest trace of the model, if any.
        is_current: whether a network was traced from exactly this model as it is now.
        trace: function that traces the model anew.

    Raises:
        CutError: the cut does not fit the model as it is traced now.
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
