"""What is known about one group of channels when it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.network import Group, Member, Network, Role

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Facts:
    """The weights of one group, arranged by channel.

    Attributes:
        network: the traced network.
        group: the group to score.
        random: for criteria that draw lots.
    """

    network: Network
    group: Group
    random: np.random.Generator

    def __len__(self) -> int:
        return len(self.group)

    @property
    def filters(self) -> list[Array]:
        """The filters that make each channel, signed; an array (channels, numbers) for each weight.

        Several where channels are coupled (a residual stream is written by many layers). A group
        that no weight makes, such as a bare parameter, is described by what else runs along it.
        """
        made_by = self.group.with_role(Role.FILTER)
        rest = [m for m in self.group.members if m.role not in (Role.MEAN, Role.VARIANCE)]
        others = [m for m in rest if m.role is not Role.INPUT]
        return self._rows(made_by or others or rest)

    @property
    def scales(self) -> list[Array]:
        """The factor of each channel in normalisation layers; (channels, 1) for each layer."""
        return self._rows(self.group.with_role(Role.SCALE))

    @property
    def readers(self) -> list[Array]:
        """What later layers do with each channel; (channels, numbers) for each weight."""
        return self._rows(self.group.with_role(Role.INPUT))

    def _rows(self, members: Sequence[Member]) -> list[Array]:
        return [self._by_channel(member) for member in members]

    def _by_channel(self, member: Member) -> Array:
        values = np.moveaxis(self.network.source.array(member.tensor), member.axis, 0)
        positions = self.network.positions(self.group, member)
        whole = positions.size == len(values) and np.array_equal(
            positions.ravel(), np.arange(len(values))
        )
        rows = values if whole else values[positions.ravel()]
        return rows.reshape(len(self.group), -1)
