"""The order in which channels are removed, and costs after the first of them are."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.racing import Scope
from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network, Role
from secateurs.errors import BudgetError, ModelError, UnknownNameError, nearest
from secateurs.measurement.latency_model import LatencyModel, is_depthwise
from secateurs.planning.group_kinds import kinds_of
from secateurs.planning.units import Candidate
from secateurs.planning.widths import MILLISECONDS, WidthCosts

if TYPE_CHECKING:
    from secateurs.planning.damage_curves import Sensitivity


Multiple = int | Mapping[str, int] | None
"""Number that widths are multiples of: for all groups, for each kind of group, or the default."""

SLOWEST = 4.0
"""Bounds (as a factor either way) on a group's time per MAC relative to the mean."""


@dataclass(frozen=True, eq=False)
class RemovalOrder:
    """Channels in the order in which they would be removed.

    Attributes:
        network: network that they belong to.
        groups: groups that may be pruned.
        ranked: for each group, its channels by ascending score.
        scores: score at each place in the order, shape (places,).
        group_of: index of the group at each place, shape (places,).
        multiples: number that each group's width is rounded to a multiple of, shape (groups,).
        least: least number of channels in each group, shape (groups,).
    """

    network: Network
    groups: Sequence[Group]
    ranked: Sequence[Ids]
    scores: NDArray[np.float64]
    group_of: Ids
    multiples: Ids
    least: Ids

    @classmethod
    def of(
        cls,
        network: Network,
        scores: Mapping[str, NDArray[np.float64]],
        scope: Scope,
        floor: float,
        multiple: Multiple,
        skip: Sequence[str],
        sensitivity: Sensitivity | None,
        latency_model: LatencyModel | None = None,
        by_time: bool = True,
        whole: bool = False,
    ) -> RemovalOrder:
        """Rank the channels; the arguments are those of ``plan``.

        ``by_time``: whether groups are cut further where their MACs take longer. ``whole``: whether
        grids lose up to half of their heads first, and then channels of each head only.
        """
        groups = list_allowed(network, skip)
        multiples = multiples_of(network, groups, multiple, latency_model)
        slowness = time_of_macs(network, groups, multiples, latency_model if by_time else None)
        first = _larger_sides_first(network, groups) if whole else {}
        lowest = [max(_least(len(g), floor), first.get(g.name, (1, 0))[1]) for g in groups]
        keys, ties, places, ranked, values = [], [], [], [], []
        for number, (group, slow) in enumerate(zip(groups, slowness, strict=True)):
            scored = _scores_of(group, scores)
            order = np.argsort(scored, kind="stable")
            may_go = max(0, len(group) - lowest[number])
            ranked.append(order)
            values.append(scored[order[:may_go]])
            # Share of the group that is removed once this channel is.
            shares = (np.arange(may_go) + 1) / len(group)
            if sensitivity is not None:
                keys.append(sensitivity.damage(group.name, shares) / slow)
            elif scope == "group":
                keys.append(_share_of_width(network, group, shares, first) / slow)
            else:
                keys.append(scored[order[:may_go]] / slow)
            # Ties: groups that can lose some channels at no damage all lose the same share. Of a
            # grid's sides, the one with the smaller channels comes first: it overshoots least.
            size = network.widths.places(group) if scope == "group" else 0.0
            ties.append(shares if sensitivity is not None else np.full(may_go, size))
            places.append(np.full(may_go, number))
        if scope not in ("group", "network"):
            raise BudgetError(f"scope: expected 'group' or 'network'; received {scope!r}")
        places_in_order = np.lexsort([np.concatenate([*row, np.zeros(0)]) for row in (ties, keys)])
        return cls(
            network,
            groups,
            ranked,
            np.concatenate([*values, np.zeros(0)])[places_in_order],
            np.concatenate([*places, np.zeros(0, np.int64)])[places_in_order],
            multiples,
            np.array(lowest, np.int64),
        )

    def __len__(self) -> int:
        return len(self.group_of)

    def counts(self, length: int) -> Ids:
        """Channels removed from each group when the first ``length`` in the order are."""
        return self.counts_at(np.arange(len(self)) < length)

    def counts_at(self, gone_at: NDArray[np.bool_]) -> Ids:
        """Channels removed from each group when those at these places are."""
        gone: Ids = np.bincount(self.group_of[gone_at], minlength=len(self.groups))
        return self._round(gone, np.round)

    def counts_below(self, threshold: float) -> Ids:
        """Channels of each group that score below ``threshold``; rounding never adds any."""
        gone = np.bincount(self.group_of[self.scores < threshold], minlength=len(self.groups))
        return self._round(gone, np.ceil)

    def _round(self, gone: Ids, rounding: Callable[..., NDArray[np.float64]]) -> Ids:
        """Round counts so that widths are multiples and no less than their floor."""
        width = np.array([len(group) for group in self.groups], np.int64)
        wanted = width - gone
        kept = rounding(wanted / self.multiples) * self.multiples
        kept = np.where(width - wanted <= np.abs(kept - wanted), width, kept)
        lowest = np.ceil(self.least / self.multiples) * self.multiples
        # A group that loses nothing keeps its width, whatever that is.
        kept = np.where(gone == 0, width, np.clip(kept, lowest, None))
        counts: Ids = width - np.minimum(kept, width).astype(np.int64)
        return counts

    def alive(self, counts: Ids) -> NDArray[np.bool_]:
        """Mask of the kept atoms when each group loses this many channels."""
        removed = [
            group.channels[order[:count]]
            for group, order, count in zip(self.groups, self.ranked, counts, strict=True)
        ]
        return self.network.alive(np.concatenate([*removed, np.zeros(0, np.int64)]))

    def put_back(self, counts: Ids, number: int) -> Ids:
        """The counts with the best removed channels of one group put back."""
        fewer = counts.copy()
        fewer[number] = max(0, fewer[number] - self.multiples[number])
        return fewer

    def candidate(self, counts: Ids) -> Candidate:
        """The network when each group loses this many channels."""
        return Candidate(self.network, self.alive(counts))

    def cut_of(self, counts: Ids) -> Cut:
        """The cut that removes this many channels of each group."""
        return self.network.cut(
            {
                group.name: np.sort(order[:count])
                for group, order, count in zip(self.groups, self.ranked, counts, strict=True)
                if count
            }
        )


def _share_of_width(
    network: Network,
    group: Group,
    shares: NDArray[np.float64],
    first: Mapping[str, tuple[float, int]],
) -> NDArray[np.float64]:
    """Share of a group's width that is removed once these shares of its channels are.

    In a grid (heads by channels of each), the width is the number of cells, and each side loses
    the same share, unless one goes ``first``, as ``_larger_sides_first`` returns it.
    """
    sides = network.widths.sides(group) - (group.name in first)
    found: NDArray[np.float64] = 1 - first.get(group.name, (1.0, 0))[0] * (1 - shares) ** sides
    return found


def _larger_sides_first(network: Network, groups: Sequence[Group]) -> dict[str, tuple[float, int]]:
    """Group in a grid -> (share of the grid that is left when it begins to go, least channels).

    The side of larger channels begins, and keeps half of them: of a ViT with three heads that was
    trained on Fashion-MNIST, a cut with a single head lost six points more than one with two.
    """
    owner = np.full(network.solution.count, -1)
    for number, group in enumerate(groups):
        owner[group.channels] = number
    owners = owner[network.widths.grid_cells]
    found = {}
    for number, group in enumerate(groups):
        beside = np.unique(owners[(owners == number).any(axis=1)])
        sides = beside[beside >= 0].tolist()
        if len(sides) > 1:
            largest = max(sides, key=lambda side: network.widths.places(groups[side]))
            heads = len(groups[largest])
            half = math.ceil(heads / 2)
            found[group.name] = (1.0, half) if largest == number else (half / heads, 1)
    return found


def time_of_macs(
    network: Network, groups: Sequence[Group], multiples: Ids, latency_model: LatencyModel | None
) -> NDArray[np.float64]:
    """Time per MAC of each group, relative to the mean over all groups' MACs.

    The rules for how far each group is cut (the same share of all, a rise of the loss) are meant
    for MACs. To save time instead, a group whose MACs take twice as long is cut as if it lost half
    as much.

    Args:
        network: network of the groups.
        groups: groups to measure: each in turn is halved, rounded to its multiple.
        multiples: number that each group's widths are multiples of, shape (groups,).
        latency_model: model that predicts time; None takes all groups as equally fast.

    Returns:
        Shape (groups,), each within a factor ``SLOWEST`` of the mean.
    """
    if latency_model is None:
        return np.ones(len(groups))
    full = np.array([len(group) for group in groups], np.int64)
    half = np.clip(np.round(full / 2 / multiples), 1, None) * multiples
    half = np.where(half < full, half, np.maximum(full // 2, 1))
    many = np.concatenate([full[None], full - np.diag(full - half.astype(np.int64))])
    costs = WidthCosts(network, groups, latency_model=latency_model)
    found = costs.costs(many, ("macs", MILLISECONDS))
    macs, time = (np.maximum(cost[0] - cost[1:], 0) for cost in found.values())
    mean = time.sum() / macs.sum()
    slowness: NDArray[np.float64] = time / np.maximum(macs, 1) / mean
    return slowness.clip(1 / SLOWEST, SLOWEST)


# Cached, because it is asked for every group: scanning all tensors each time would be quadratic.
_DEPTHWISE: WeakKeyDictionary[Network, bool] = WeakKeyDictionary()


def _has_depthwise(network: Network) -> bool:
    """Whether a network has a depthwise convolution."""
    if network not in _DEPTHWISE:
        tensors = network.tensors.values()
        _DEPTHWISE[network] = any(is_depthwise(network, tensor) for tensor in tensors)
    return _DEPTHWISE[network]


_POWERS: tuple[int, ...] = (8, 4, 2, 1)
_POWERS_OF_FEW = (8, 4, 1)
_CHOICES_IN_NEED = 3
_CHOICES = 8
_MANY_GROUPS = 8
_CHOICES_TOGETHER = 64
"""With fewer groups, eight channels of one group are a larger part of a budget, so groups are at a
multiple only if they are that much wider: all groups together have this many choices at least."""


def multiple_of(network: Network, group: Group, multiple: int | None) -> int:
    """The number that a group's widths are kept multiples of.

    Args:
        network: network of the group.
        group: the group.
        multiple: requested multiple; None is the largest power of two up to 8 that leaves at least
            eight widths to choose from (three in a network with depthwise convolutions and on
            CUDA). In any other network of fewer than eight groups, channels of convolutions are
            kept at 8 or 4 where that leaves 64 widths divided by the number of groups, and all
            others at 1. If an operation rejects other widths, the result is a multiple of what that
            operation needs, too.

    Runtimes hold channels in blocks. A ResNet-18 of half the MACs is 1.5 times as fast as the dense
    one in ONNX Runtime at any widths, and 1.9 times at multiples of 8, at the same accuracy
    (``docs/speed.md``). At widths that are no multiple of 4, a depthwise network or CREPE of half
    the MACs takes *longer* there than the dense one, and so does a ResNet-50 on CUDA
    (``docs/gpu.md``).
    """
    needed = network.multiple_of(group)
    if multiple is not None:
        return math.lcm(multiple, needed)
    if needed > 1:
        return needed
    choices, powers = _CHOICES, _POWERS
    if _needs_blocks(network):
        choices = _CHOICES_IN_NEED
    elif len(network.groups) < _MANY_GROUPS:
        powers = _POWERS_OF_FEW if _is_convolved(network, group) else (1,)
        choices = math.ceil(_CHOICES_TOGETHER / len(network.groups))
    return next(power for power in powers if power == 1 or choices * power <= len(group))


def finest_multiple(network: Network, multiple: int | None) -> int | None:
    """1 where channels are counted one by one and any width is fast; else the given multiple.

    Args:
        network: network whose widths are chosen.
        multiple: requested multiple; None leaves it to ``multiple_of`` where blocks are needed.
    """
    return 1 if multiple is None and not _needs_blocks(network) else multiple


def _needs_blocks(network: Network) -> bool:
    """Whether fewer MACs can take longer at widths that are not multiples."""
    return network.source.device == "cuda" or _has_depthwise(network)


def _is_convolved(network: Network, group: Group) -> bool:
    """Whether a convolution makes or reads a group's channels."""
    return any(len(network.tensors[member.tensor].shape) > 2 for member in group.members)


def multiples_of(
    network: Network,
    groups: Sequence[Group],
    multiple: Multiple,
    latency_model: LatencyModel | None = None,
) -> Ids:
    """``multiple_of`` each group; if none is requested, as a latency model measured it.

    Args:
        network: network of the groups.
        groups: some of its groups.
        multiple: one for all groups, one for each kind of group (``KINDS``), or None.
        latency_model: model with measured multiples; None if nothing was measured.
    """
    if multiple is None and latency_model is not None:
        kinds = kinds_of(network)
        measured = [latency_model.multiple_for(kinds[group.name]) for group in groups]
        found = [_measured_for(network, *pair) for pair in zip(groups, measured, strict=True)]
        return np.array(found, np.int64)
    if not isinstance(multiple, Mapping):
        found = [multiple_of(network, group, multiple) for group in groups]
    else:
        kinds = kinds_of(network)
        found = [multiple_of(network, group, multiple[kinds[group.name]]) for group in groups]
    return np.array(found, np.int64)


def _measured_for(network: Network, group: Group, measured: int) -> int:
    """The measured multiple, or the default one if that is larger.

    A narrow group keeps at least two widths to choose from, so that budgets can be met.
    """
    fits = next(power for power in (measured, *_POWERS) if power == 1 or 2 * power <= len(group))
    return math.lcm(max(fits, multiple_of(network, group, None)), network.multiple_of(group))


def list_allowed(network: Network, skip: Sequence[str]) -> list[Group]:
    """The groups that may be pruned: all except those that ``skip`` names.

    Raises:
        UnknownNameError: a pattern matches nothing.
        ModelError: no group remains.
    """
    names = [
        [group.name, *(member.layer for member in group.members if member.role is not Role.INPUT)]
        for group in network.groups
    ]
    for pattern in skip:
        if not any(fnmatch.filter(of_group, pattern) for of_group in names):
            known = [group.name for group in network.groups]
            raise UnknownNameError(
                f"skip: no group or layer matches {pattern!r}{nearest(pattern, known)}"
            )
    allowed = [
        group
        for group, of_group in zip(network.groups, names, strict=True)
        if len(group) > 1 and not any(fnmatch.filter(of_group, pattern) for pattern in skip)
    ]
    if not allowed:
        raise ModelError(_nothing_to_prune(network))
    return allowed


def _nothing_to_prune(network: Network) -> str:
    why = "; ".join(dict.fromkeys(r for frozen in network.frozen for r in frozen.reasons))
    return (
        f"{network.name}: expected channels that can be pruned; there are none"
        f"{' besides those skipped' if network.groups else ''}. Frozen because: "
        f"{why or 'no weights'}"
    )


def _scores_of(group: Group, scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    values = scores.get(group.name)
    if values is None or len(values) != len(group):
        raise UnknownNameError(
            f"{group.name}: expected {len(group)} scores; received "
            f"{'none' if values is None else len(values)}. Score the network that is planned for."
        )
    return np.asarray(values, np.float64)


def _least(width: int, floor: float) -> int:
    """The least number of channels of a group of this width."""
    return max(1, min(width, round(floor) if floor >= 1 else int(np.ceil(floor * width))))
