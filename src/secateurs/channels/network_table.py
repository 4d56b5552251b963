"""A network as a table: members and costs of each group, and what is frozen and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateurs import formatting
from secateurs.channels.groups import members
from secateurs.formatting import megabytes, percent

if TYPE_CHECKING:
    from secateurs.channels.network import Network


def format_network(network: Network) -> str:
    """Format the table that printing a network shows."""
    total = network.cost()
    parts = [
        f"{network.name}: {formatting.count(total.params)} parameters, "
        f"{formatting.count(total.macs)} MACs, "
        f"{megabytes(total.bytes)}, {len(network.groups)} groups of "
        f"{total.channels} channels that can be pruned",
        _format_groups(network),
    ]
    if network.frozen:
        stuck = [
            (why, str(sum(f.count for f in all_of_it)), _shorten(members(all_of_it)))
            for why, all_of_it in network.frozen_for.items()
        ]
        parts.append(formatting.table(("cannot be pruned because", "indices", "in"), stuck, (1,)))
    return "\n\n".join([*parts, *network.notes])


def _format_groups(network: Network) -> str:
    total = network.cost()
    columns = ["group", "channels", "tensors it touches", "parameters", "MACs"]
    rows = []
    for group in network.groups:
        left = network.cost_of(network.alive(group.channels))
        rows.append(
            [
                group.name,
                str(len(group)),
                _shorten([m.layer for m in group.members]),
                percent(1 - left.params / max(1, total.params)),
                percent(1 - left.macs / max(1, total.macs)),
            ]
        )
    if any(group.inexact for group in network.groups):
        columns.append("inexact through")
        for row, group in zip(rows, network.groups, strict=True):
            row.append(_shorten(group.inexact, 1))
    return formatting.table(columns, rows, (1, 3, 4))


def _shorten(layers: Sequence[str], most: int = 4) -> str:
    names = list(dict.fromkeys(layers))
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
