"""What is known about one group of channels when it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from secateurs.calibration.ablation import Ablation
from secateurs.calibration.statistics import (
    ActivationStatistics,
    CalibrationStatistics,
    ChannelIndex,
    Gates,
    Gram,
    channel_index,
)
from secateurs.channels.arrays import Array
from secateurs.channels.network import Group, Member, Network, Role
from secateurs.errors import SecateursError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GroupData:
    """The weights of one group, arranged by channel, and what calibration data say about it.

    Attributes:
        network: the traced network.
        group: the group to score.
        random: of stochastic criteria.
        gathered: from calibration data, for criteria that need some.
    """

    network: Network
    group: Group
    random: np.random.Generator
    gathered: CalibrationStatistics = field(default_factory=CalibrationStatistics)

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

    @property
    def readings(self) -> list[tuple[ActivationStatistics, ChannelIndex]]:
        """The values that consumers read, and which of their indices are the group's channels."""
        readings = _require(self.gathered.readings, "activations")
        parts = ((r, channel_index(self.network, self.group, r.units)) for r in readings)
        return [(reading, part) for reading, part in parts if len(part)]

    @property
    def grams(self) -> tuple[Gram, ...]:
        """Products of the channels' values, for each reading."""
        return _require(self.gathered.grams, "grams")[self.group.name]

    @property
    def gates(self) -> Gates:
        """How the loss changes with a gate on each channel, by atom: index with ``atoms``."""
        return _require(self.gathered.gates, "gates")

    @property
    def ablation(self) -> Ablation:
        """What the loss does when a channel is removed, of all groups."""
        return _require(self.gathered.ablation, "ablation")

    def weights_and_curvature(self) -> list[tuple[Array, Array]]:
        """(weights, mean squared gradients) by channel, of every parameter the channels run along.

        Both are (channels, numbers). A tensor that the channels run along twice comes twice.
        """
        curvature = _require(self.gathered.curvature, "curvature")
        members = [m for m in self.group.members if m.tensor in curvature]
        return [
            (self._by_channel(member), self._arrange(member, curvature[member.tensor]))
            for member in members
        ]

    def _rows(self, members: Sequence[Member]) -> list[Array]:
        return [self._by_channel(member) for member in members]

    def _by_channel(self, member: Member) -> Array:
        return self._arrange(member, self.network.source.array(member.tensor))

    def _arrange(self, member: Member, array: Array) -> Array:
        """An array of a tensor's shape, by channel."""
        values = np.moveaxis(array, member.axis, 0)
        positions = self.network.positions(self.group, member)
        whole = positions.size == len(values) and np.array_equal(
            positions.ravel(), np.arange(len(values))
        )
        rows = values if whole else values[positions.ravel()]
        return rows.reshape(len(self.group), -1)


def _require(value: T | None, name: str) -> T:
    if value is None:
        raise SecateursError(
            f"expected {name} to be gathered before scoring; they were not. Register the criterion "
            "with what it needs: @criterion(Need.ACTIVATIONS | ...), and pass data= to score()."
        )
    return value
