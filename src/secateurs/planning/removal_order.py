"""The order in which channels would go, and what a network costs when the first of them have."""

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
"""Of what widths are kept multiples: all, each kind of group, or as is usual."""

SLOWEST = 4.0
"""A multiply-accumulate is taken to be no more than so many times as slow as the mean."""


@dataclass(frozen=True, eq=False)
class RemovalOrder:
    """Channels in the order in which they would go.

    Attributes:
        network: whose channels they are.
        groups: the groups that may be pruned.
        ranked: for each group, its channels by rising score.
        scores: the score at each place in the order.
        group_of: the group's number at each place.
        multiples: widths of each group that stay are rounded to its own; shape (groups,).
        least: the fewest channels that each group may keep; shape (groups,).
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
    ) -> RemovalOrder:
        """Rank the channels; the arguments are those of ``plan``.

        ``by_time``: whether groups are cut the further the longer their arithmetic takes.
        """
        groups = list_allowed(network, skip)
        multiples = multiples_of(network, groups, multiple, latency_model)
        slowness = time_of_macs(network, groups, multiples, latency_model if by_time else None)
        keys, ties, places, ranked, values = [], [], [], [], []
        for number, (group, slow) in enumerate(zip(groups, slowness, strict=True)):
            scored = _scores_of(group, scores)
            order = np.argsort(scored, kind="stable")
            may_go = max(0, len(group) - _least(len(group), floor))
            ranked.append(order)
            values.append(scored[order[:may_go]])
            # The share of the group that is gone once this channel is.
            shares = (np.arange(may_go) + 1) / len(group)
            if sensitivity is not None:
                keys.append(sensitivity.damage(group.name, shares) / slow)
            elif scope == "group":
                # Of a grid's width: what is gone when each of its sides has lost this share.
                keys.append((1 - (1 - shares) ** network.widths.sides(group)) / slow)
            else:
                keys.append(scored[order[:may_go]] / slow)
            # Where several groups can lose some for nothing, all lose the same share. Of the sides
            # of grids, the one whose channels are smaller goes first: that overshoots the least.
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
            np.array([_least(len(group), floor) for group in groups], np.int64),
        )

    def __len__(self) -> int:
        return len(self.group_of)

    def counts(self, length: int) -> Ids:
        """How many channels of each group go when the first ``length`` in order do."""
        return self.counts_at(np.arange(len(self)) < length)

    def counts_at(self, gone_at: NDArray[np.bool_]) -> Ids:
        """How many channels of each group go when those at these places do."""
        gone: Ids = np.bincount(self.group_of[gone_at], minlength=len(self.groups))
        return self._round(gone, np.round)

    def counts_below(self, threshold: float) -> Ids:
        """How many channels of each group score below this; rounding never adds to them."""
        gone = np.bincount(self.group_of[self.scores < threshold], minlength=len(self.groups))
        return self._round(gone, np.ceil)

    def _round(self, gone: Ids, rounding: Callable[..., NDArray[np.float64]]) -> Ids:
        """As many as leave a width of the group's multiple, and no fewer than its floor."""
        width = np.array([len(group) for group in self.groups], np.int64)
        wanted = width - gone
        kept = rounding(wanted / self.multiples) * self.multiples
        kept = np.where(width - wanted <= np.abs(kept - wanted), width, kept)
        lowest = np.ceil(self.least / self.multiples) * self.multiples
        # What nothing is taken of stays, whatever its width.
        kept = np.where(gone == 0, width, np.clip(kept, lowest, None))
        counts: Ids = width - np.minimum(kept, width).astype(np.int64)
        return counts

    def alive(self, counts: Ids) -> NDArray[np.bool_]:
        """Which atoms stay when so many of each group go."""
        removed = [
            group.channels[order[:count]]
            for group, order, count in zip(self.groups, self.ranked, counts, strict=True)
        ]
        return self.network.alive(np.concatenate([*removed, np.zeros(0, np.int64)]))

    def put_back(self, counts: Ids, number: int) -> Ids:
        """The counts, with the best of what goes from one group put back."""
        fewer = counts.copy()
        fewer[number] = max(0, fewer[number] - self.multiples[number])
        return fewer

    def candidate(self, counts: Ids) -> Candidate:
        """What is left when so many of each group go."""
        return Candidate(self.network, self.alive(counts))

    def cut_of(self, counts: Ids) -> Cut:
        """The cut that takes so many of each group."""
        return self.network.cut(
            {
                group.name: np.sort(order[:count])
                for group, order, count in zip(self.groups, self.ranked, counts, strict=True)
                if count
            }
        )


def time_of_macs(
    network: Network, groups: Sequence[Group], multiples: Ids, latency_model: LatencyModel | None
) -> NDArray[np.float64]:
    """How long a multiply-accumulate of each group takes, of the mean over groups' MACs.

    What says how far each group is cut (the same share of all, a rise of the loss) is meant for
    MACs. To save time, a group whose MACs take twice as long is cut as if it lost half as much.

    Args:
        network: whose groups they are.
        groups: of which half is thought away, one at a time, rounded to its multiple.
        multiples: of the groups' widths.
        latency_model: by which time is reckoned; None: all take the same.

    Returns:
        Shape (groups,), each within ``SLOWEST`` times the mean.
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


# Asked of every group of a network: looking at all tensors each time would be quadratic.
_DEPTHWISE: WeakKeyDictionary[Network, bool] = WeakKeyDictionary()


def _has_depthwise(network: Network) -> bool:
    """Whether a network has a depthwise convolution."""
    if network not in _DEPTHWISE:
        tensors = network.tensors.values()
        _DEPTHWISE[network] = any(is_depthwise(network, tensor) for tensor in tensors)
    return _DEPTHWISE[network]


_POWERS = (8, 4, 2, 1)
_CHOICES_IN_NEED = 3
_CHOICES = 8
_MANY_GROUPS = 8
"""With fewer, a budget would be missed by what eight channels cost."""


def multiple_of(network: Network, group: Group, multiple: int | None) -> int:
    """Of what the widths of a group are kept multiples.

    Args:
        network: whose group it is.
        group: some channels.
        multiple: as asked for; None is the largest power of two up to 8 that leaves at least eight
            widths to choose from, three in a network with depthwise convolutions and on CUDA; 1 in
            any other network of less than eight groups. Where an operation refuses widths that are
            no multiple, it is a multiple of that, too.

    Runtimes hold channels in blocks. A ResNet-18 of half the MACs is 1.5 times as fast as the dense
    one in ONNX Runtime at any widths, and 1.9 times at multiples of 8, at the same accuracy
    (``docs/speed.md``). At widths that are no multiple of 4, a depthwise network of half the MACs
    takes *longer* there than the dense one, and so does a ResNet-50 on CUDA (``docs/gpu.md``).
    """
    needed = network.multiple_of(group)
    if multiple is not None:
        return math.lcm(multiple, needed)
    in_need = _needs_blocks(network)
    if needed > 1 or not (in_need or len(network.groups) >= _MANY_GROUPS):
        return needed
    choices = _CHOICES_IN_NEED if in_need else _CHOICES
    return next(power for power in _POWERS if power == 1 or choices * power <= len(group))


def finest_multiple(network: Network, multiple: int | None) -> int | None:
    """For what counts channels one by one, or goes in small steps: 1 where that slows nothing down.

    Args:
        network: whose widths are chosen.
        multiple: as asked for; None leaves it to ``multiple_of`` where blocks are needed.
    """
    return 1 if multiple is None and not _needs_blocks(network) else multiple


def _needs_blocks(network: Network) -> bool:
    """Whether at any widths less arithmetic can take longer."""
    return network.source.device == "cuda" or _has_depthwise(network)


def multiples_of(
    network: Network,
    groups: Sequence[Group],
    multiple: Multiple,
    latency_model: LatencyModel | None = None,
) -> Ids:
    """``multiple_of`` each group; where none is asked for, as a latency model has measured it.

    Args:
        network: whose groups they are.
        groups: some of its groups.
        multiple: one for all, one for each kind of group (``KINDS``), or None.
        latency_model: what was measured; None: nothing was.
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
    """The multiple that was measured, or the usual one where that is larger and costs no more.

    A narrow group keeps two widths to choose from at least, or a budget could not be met.
    """
    fits = next(power for power in (measured, *_POWERS) if power == 1 or 2 * power <= len(group))
    return math.lcm(max(fits, multiple_of(network, group, None)), network.multiple_of(group))


def list_allowed(network: Network, skip: Sequence[str]) -> list[Group]:
    """The groups that may be pruned: all but those that ``skip`` names.

    Raises:
        UnknownNameError: a pattern matches none.
        ModelError: none is left.
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
        why = "; ".join(dict.fromkeys(r for frozen in network.frozen for r in frozen.reasons))
        raise ModelError(
            f"{network.name}: expected channels that can be pruned; there are none"
            f"{' besides those skipped' if network.groups else ''}. Frozen because: "
            f"{why or 'no weights'}"
        )
    return allowed


def _scores_of(group: Group, scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    values = scores.get(group.name)
    if values is None or len(values) != len(group):
        raise UnknownNameError(
            f"{group.name}: expected {len(group)} scores; received "
            f"{'none' if values is None else len(values)}. Score the network that is planned for."
        )
    return np.asarray(values, np.float64)


def _least(width: int, floor: float) -> int:
    """The fewest channels a group of this width may be left with."""
    return max(1, min(width, round(floor) if floor >= 1 else int(np.ceil(floor * width))))
