"""The order in which channels would go, and what a network costs when the first of them have."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network, Role
from secateurs.errors import BudgetError, ModelError, UnknownNameError, nearest
from secateurs.planning.units import Candidate

if TYPE_CHECKING:
    from secateurs.planning.damage_curves import Sensitivity

Scope = Literal["group", "network"]


@dataclass(frozen=True, eq=False)
class RemovalOrder:
    """Channels in the order in which they would go.

    Attributes:
        network: whose channels they are.
        groups: the groups that may be pruned.
        ranked: for each group, its channels by rising score.
        scores: the score at each place in the order.
        group_of: the group's number at each place.
        multiple: widths that stay are rounded to it.
    """

    network: Network
    groups: Sequence[Group]
    ranked: Sequence[Ids]
    scores: NDArray[np.float64]
    group_of: Ids
    multiple: int

    @classmethod
    def of(
        cls,
        network: Network,
        scores: Mapping[str, NDArray[np.float64]],
        scope: Scope,
        floor: float,
        multiple: int,
        skip: Sequence[str],
        sensitivity: Sensitivity | None,
    ) -> RemovalOrder:
        """Rank the channels; the arguments are those of ``plan``."""
        groups = _allowed(network, skip)
        keys, ties, places, ranked, values = [], [], [], [], []
        for number, group in enumerate(groups):
            own = _scores_of(group, scores)
            order = np.argsort(own, kind="stable")
            may_go = max(0, len(group) - _least(len(group), floor))
            ranked.append(order)
            values.append(own[order[:may_go]])
            # The share of the group that is gone once this channel is.
            shares = (np.arange(may_go) + 1) / len(group)
            if sensitivity is not None:
                keys.append(sensitivity.damage(group.name, shares))
            else:
                keys.append(shares if scope == "group" else own[order[:may_go]])
            # Where several groups can lose some for nothing, all lose the same share.
            ties.append(shares if sensitivity is not None else np.zeros(may_go))
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
            multiple,
        )

    def __len__(self) -> int:
        return len(self.group_of)

    def counts(self, length: int) -> Ids:
        """How many channels of each group go when the first ``length`` in order do."""
        return self.counts_at(np.arange(len(self)) < length)

    def counts_at(self, gone_at: NDArray[np.bool_]) -> Ids:
        """How many channels of each group go when those at these places do."""
        gone: Ids = np.bincount(self.group_of[gone_at], minlength=len(self.groups))
        if self.multiple == 1:
            return gone
        width = np.array([len(group) for group in self.groups])
        kept: Ids = -(-(width - gone) // self.multiple) * self.multiple
        counts: Ids = width - np.minimum(kept, width)
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
        fewer[number] = max(0, fewer[number] - self.multiple)
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


def _allowed(network: Network, skip: Sequence[str]) -> list[Group]:
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
    own = scores.get(group.name)
    if own is None or len(own) != len(group):
        raise UnknownNameError(
            f"{group.name}: expected {len(group)} scores; received "
            f"{'none' if own is None else len(own)}. Score the network that is planned for."
        )
    return np.asarray(own, np.float64)


def _least(width: int, floor: float) -> int:
    """The fewest channels a group of this width may be left with."""
    return max(1, min(width, round(floor) if floor >= 1 else int(np.ceil(floor * width))))
