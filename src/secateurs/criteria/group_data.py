"""Data about one group of channels that a criterion scores."""

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
    """Weights of one group, arranged by channel, and statistics of its calibration data.

    Attributes:
        network: the traced network.
        group: the group to score.
        random: random generator for stochastic criteria.
        gathered: statistics of calibration data, for criteria that need some.
    """

    network: Network
    group: Group
    random: np.random.Generator
    gathered: CalibrationStatistics = field(default_factory=CalibrationStatistics)

    def __len__(self) -> int:
        return len(self.group)

    @property
    def filters(self) -> list[Array]:
        """Filters that produce each channel, signed; one array (channels, numbers) per weight.

        There are several where channels are coupled (many layers write to a residual stream). If no
        weight produces the channels, such as for a bare parameter, other members are used.
        """
        made_by = self.group.with_role(Role.FILTER)
        rest = [m for m in self.group.members if m.role not in (Role.MEAN, Role.VARIANCE)]
        others = [m for m in rest if m.role is not Role.INPUT]
        return self._rows(made_by or others or rest)

    @property
    def scales(self) -> list[Array]:
        """Factor of each channel in normalisation layers; (channels, 1) for each layer."""
        return self._rows(self.group.with_role(Role.SCALE))

    @property
    def readers(self) -> list[Array]:
        """Weights by which later layers read each channel; (channels, numbers) for each weight."""
        return self._rows(self.group.with_role(Role.INPUT))

    @property
    def readings(self) -> list[tuple[ActivationStatistics, ChannelIndex]]:
        """Statistics of the values that consumers read, with indices of the group's channels."""
        readings = _require(self.gathered.readings, "activations")
        parts = ((r, channel_index(self.network, self.group, r.units)) for r in readings)
        return [(reading, part) for reading, part in parts if len(part)]

    @property
    def grams(self) -> tuple[Gram, ...]:
        """Products of the channels' values, one ``Gram`` for each reading."""
        return _require(self.gathered.grams, "grams")[self.group.name]

    @property
    def gates(self) -> Gates:
        """Gradients with respect to gates; arrays are by atom: index with ``group.channels``."""
        return _require(self.gathered.gates, "gates")

    @property
    def ablation(self) -> Ablation:
        """Change of the loss when a channel is removed, for all groups."""
        return _require(self.gathered.ablation, "ablation")

    def weights_and_curvature(self) -> list[tuple[Array, Array]]:
        """(weights, mean squared gradients) by channel, for every parameter they run along.

        Both are (channels, numbers). A tensor that the channels run along twice appears twice.
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
        """Rearrange an array of a tensor's shape to (channels, numbers)."""
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
            f"expected {name} to be collected before scoring; they were not. Register the "
            "criterion with what it needs: @criterion(Need.ACTIVATIONS | ...), and pass data= to "
            "score()."
        )
    return value
