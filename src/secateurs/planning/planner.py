"""From scores and a budget to a cut. Pure arithmetic: no model is run, none is changed."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.file_size import predicted_file_size
from secateurs.channels.network import Group, Network, Role
from secateurs.errors import BudgetError, ModelError, UnknownNameError, nearest

if TYPE_CHECKING:
    from secateurs.planning.damage_curves import Sensitivity

Scope = Literal["group", "network"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may remain. Several limits at once must all hold.

    Each is a fraction of the dense model (a number below 1, such as 0.5) or absolute.

    Attributes:
        channels: of the groups that can be pruned.
        params: numbers in the parameters.
        macs: multiply-accumulates of a pass over the example inputs.
        size_mb: the saved file, in megabytes of 1,000,000 bytes; an absolute size below one
            megabyte is written with its unit, as in ``"0.4 MB"`` or ``"400 kB"``.
    """

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    size_mb: float | str | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            names = ", ".join(field.name for field in fields(self))
            raise BudgetError(f"expected a budget of at least one of {names}; received none")
        for name, limit in self.limits.items():
            if isinstance(limit, str):
                _bytes_from(limit)
            elif not limit > 0:
                raise BudgetError(f"{name}: expected a number above 0; received {limit}")

    @property
    def limits(self) -> dict[str, float | str]:
        """The limits that were given."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in given if value is not None}

    def absolute(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The limits in absolute numbers (sizes in bytes), given what the dense model takes."""
        limits = {}
        for name, limit in self.limits.items():
            if isinstance(limit, str):
                limits[name] = _bytes_from(limit)
            elif limit < 1 or (limit == 1 and isinstance(limit, float)):
                limits[name] = limit * dense[name]
            else:
                limits[name] = limit * (1e6 if name == "size_mb" else 1)
        return limits

    @classmethod
    def parse(cls, source: str) -> Budget:
        """Read ``"macs=0.5,size_mb=15"``.

        Raises:
            BudgetError: an unknown unit, or something that is no number.
        """
        limits: dict[str, float | str] = {}
        names = [field.name for field in fields(cls)]
        for part in source.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in names:
                raise BudgetError(
                    f"expected a budget such as 'macs=0.5' or 'size_mb=15,params=0.4'; received "
                    f"{part!r}{nearest(name, names)}"
                )
            try:
                limits[name] = float(value)
            except ValueError:
                if name != "size_mb":
                    raise BudgetError(f"{name}: expected a number; received {value!r}") from None
                limits[name] = value
        return cls(**limits)  # type: ignore[arg-type]


def plan(
    network: Network,
    scores: Mapping[str, NDArray[np.float64]],
    budget: Budget | None = None,
    *,
    amount: float | None = None,
    threshold: float | None = None,
    scope: Scope = "group",
    floor: float = 0.1,
    multiple: int = 1,
    skip: Sequence[str] = (),
    sensitivity: Sensitivity | None = None,
) -> Cut:
    """Choose the channels to remove: those of the lowest scores, until the budget is met.

    Exactly one of ``budget``, ``amount`` and ``threshold`` says how many.

    Args:
        network: as traced.
        scores: for each group, one a channel, as ``score`` returns them.
        budget: what may remain. Met as closely as the granularity of channels allows, never
            exceeded.
        amount: share of the channels to remove, in (0, 1).
        threshold: remove every channel that scores below it.
        scope: 'group' takes the same share from every group; 'network' takes the lowest scores
            wherever they are, which needs scores that compare across layers.
        floor: never leave a group with less than this: a share of its channels, or a number if 1 or
            more.
        multiple: round the widths that stay to a multiple of this.
        skip: names of groups or layers to leave alone; ``*`` matches anything.
        sensitivity: as ``sensitivity`` measured it: every group is then cut as far as the same rise
            of the loss allows, each alone, in place of what ``scope`` says. Scores still rank the
            channels inside each group.

    Returns:
        The cut; ``cut.explain()`` says what goes.

    Raises:
        BudgetError: no cut within the floors meets the budget; the message says the nearest that
            can.
        ModelError: the model has no channel that can be pruned.
    """
    if sum(choice is not None for choice in (budget, amount, threshold)) != 1:
        raise BudgetError("expected exactly one of budget, amount and threshold")
    if amount is not None and not 0 < amount < 1:
        raise BudgetError(f"amount: expected a share in (0, 1); received {amount}")
    queue = _Queue.of(network, scores, scope, floor, multiple, skip, sensitivity)
    if threshold is not None:
        return queue.cut_of(queue.counts_at(queue.scores < threshold))
    if amount is not None:
        total = sum(len(group) for group in network.groups)
        budget = Budget(channels=max(1, total - round(amount * total)) + 0.0)
    return _meet(network, queue, budget)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Queue:
    """Channels in the order in which they would go.

    Attributes:
        network: whose channels they are.
        groups: the groups that may be pruned.
        ranked: for each group, its channels by rising score.
        scores: the score of each place in the queue.
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
    ) -> _Queue:
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
        queue = np.lexsort([np.concatenate([*row, np.zeros(0)]) for row in (ties, keys)])
        return cls(
            network,
            groups,
            ranked,
            np.concatenate([*values, np.zeros(0)])[queue],
            np.concatenate([*places, np.zeros(0, np.int64)])[queue],
            multiple,
        )

    def __len__(self) -> int:
        return len(self.group_of)

    def counts(self, length: int) -> Ids:
        """How many channels of each group go when the first ``length`` in the queue do."""
        return self.counts_at(np.arange(len(self)) < length)

    def counts_at(self, gone_at: NDArray[np.bool_]) -> Ids:
        """How many channels of each group go when those at these places in the queue do."""
        gone: Ids = np.bincount(self.group_of[gone_at], minlength=len(self.groups))
        if self.multiple == 1:
            return gone
        width = np.array([len(group) for group in self.groups])
        kept: Ids = -(-(width - gone) // self.multiple) * self.multiple
        counts: Ids = width - np.minimum(kept, width)
        return counts

    def alive(self, counts: Ids) -> NDArray[np.bool_]:
        removed = [
            group.channels[order[:count]]
            for group, order, count in zip(self.groups, self.ranked, counts, strict=True)
        ]
        return self.network.alive(np.concatenate([*removed, np.zeros(0, np.int64)]))

    def cost(self, counts: Ids) -> Cost:
        return self.network.cost_of(self.alive(counts))

    def cut_of(self, counts: Ids) -> Cut:
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


def _meet(network: Network, queue: _Queue, budget: Budget) -> Cut:
    limits = budget.absolute(_measures(network, network.cost(), Cut()))
    tensor_limit = limits.get("size_mb")
    while True:
        holds = _test(limits, tensor_limit)
        counts = _shortest(queue, holds)
        if counts is None:
            raise BudgetError(_nearest_budget(network, queue, budget, limits))
        cut = queue.cut_of(_given_back(queue, counts, holds, _test(limits, tensor_limit, 0.999)))
        if tensor_limit is None:
            return cut
        # A file is its tensors and a header, which is known once the cut is, and grows with it.
        excess = predicted_file_size(network, cut) - limits["size_mb"]
        if excess <= 0:
            return cut
        tensor_limit = network.cost(cut).bytes - excess


def _test(
    limits: Mapping[str, float], tensor_limit: float | None, share: float = 1.0
) -> Callable[[Cost], bool]:
    """Whether a cost is within this share of the limits."""
    limits = {name: limit * share for name, limit in limits.items()}
    tensor_limit = None if tensor_limit is None else tensor_limit * share

    def holds(cost: Cost) -> bool:
        return (
            cost.channels <= limits.get("channels", np.inf)
            and cost.params <= limits.get("params", np.inf)
            and cost.macs <= limits.get("macs", np.inf)
            and cost.bytes <= (np.inf if tensor_limit is None else tensor_limit)
        )

    return holds


def _shortest(queue: _Queue, holds: Callable[[Cost], bool]) -> Ids | None:
    """How many of each group go for the shortest queue that meets the budget; None if none does."""
    if not holds(queue.cost(queue.counts(len(queue)))):
        return None
    low, high = 0, len(queue)
    while low < high:
        middle = (low + high) // 2
        if holds(queue.cost(queue.counts(middle))):
            high = middle
        else:
            low = middle + 1
    return queue.counts(high)


def _given_back(
    queue: _Queue, counts: Ids, holds: Callable[[Cost], bool], has_room: Callable[[Cost], bool]
) -> Ids:
    """Put back what the budget has room for: the last step overshoots where channels are dear.

    Where less than a thousandth is left, nobody looks for it: each try costs a look at the whole
    network, and a network of thousands of groups would need thousands.
    """
    open_groups = list(range(len(queue.groups)))
    while open_groups:
        for number in list(open_groups):
            if not has_room(queue.cost(counts)):
                return counts
            fewer = counts.copy()
            fewer[number] = max(0, fewer[number] - queue.multiple)
            if fewer[number] < counts[number] and holds(queue.cost(fewer)):
                counts = fewer
            else:
                open_groups.remove(number)
    return counts


def _measures(network: Network, cost: Cost, cut: Cut) -> dict[str, float]:
    return {
        "channels": cost.channels,
        "params": cost.params,
        "macs": cost.macs,
        "size_mb": predicted_file_size(network, cut),
    }


def _nearest_budget(
    network: Network, queue: _Queue, budget: Budget, limits: Mapping[str, float]
) -> str:
    counts = queue.counts(len(queue))
    cost = queue.cost(counts)
    least = _measures(network, cost, queue.cut_of(counts))
    missed = [name for name, limit in limits.items() if least[name] > limit]

    def shown(name: str, value: float) -> str:
        return (
            f"{name}={value / 1e6:.3g} MB"
            if name == "size_mb"
            else f"{name}={formatting.count(value)}"
        )

    return (
        f"{network.name}: no cut within the floors meets "
        f"{', '.join(f'{name}={budget.limits[name]}' for name in missed)}; the nearest that can "
        f"be met is "
        f"{', '.join(shown(name, least[name]) for name in missed)}. "
        "Ask for that, or lower the floor."
    )


def _bytes_from(size: str) -> float:
    number, unit = size.strip(), "mb"
    for known in ("kb", "mb", "gb"):
        if size.strip().lower().endswith(known):
            number, unit = size.strip()[:-2], known
    try:
        value = float(number) * {"kb": 1e3, "mb": 1e6, "gb": 1e9}[unit]
    except ValueError:
        value = -1.0
    if value <= 0:
        raise BudgetError(f"size_mb: expected a size such as 15 or '400 kB'; received {size!r}")
    return value
