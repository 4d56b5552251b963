"""One pass over the calibration data, batch by batch, as far as frameworks share it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from secateurs.calibration.ablation import Ablation
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import (
    ActivationStatistics,
    CalibrationStatistics,
    Gates,
    Gram,
    channel_index,
)
from secateurs.channels.arrays import Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network


class Ablating(Protocol):
    """Removes channels, batch by batch."""

    def add(self, batch: CalibrationBatch) -> None:
        """Process one batch."""

    def ablation(self) -> Ablation:
        """The ablation over all batches."""


@dataclass(eq=False)
class StatisticsCollector(ABC):
    """Sums of one pass. Subclasses implement how each is computed from a batch.

    Attributes:
        network: as traced.
        needs: statistics to collect.
        images: number of images processed.
        readings: statistics of the values that consumers read, in the order of the forward pass.
        grams: group name -> index of the reading -> products of the group's channels there.
        curvature: tensor name -> sum of the squared gradients of all images' losses.
        gates: gradients with respect to gates on all channels.
        ablation: removes every channel.
    """

    network: Network
    needs: Need
    images: int = field(init=False, default=0)
    readings: list[ActivationStatistics] = field(init=False, default_factory=list)
    grams: dict[str, dict[int, Gram]] = field(init=False)
    curvature: dict[str, Sums] = field(init=False, default_factory=dict)
    gates: Gates = field(init=False)
    ablation: Ablating = field(init=False)

    def __post_init__(self) -> None:
        self.grams = {group.name: {} for group in self.network.groups}
        self.gates = Gates(self.network.solution)

    def add(self, batch: CalibrationBatch) -> None:
        """Process one batch, for everything that is needed."""
        self.images += len(batch)
        if self.needs & (Need.ACTIVATIONS | Need.GRAMS):
            self.add_values(batch)
        if self.needs & Need.GATES:
            self.add_gates(batch)
        if self.needs & Need.CURVATURE:
            for image in range(len(batch)):
                self.add_squared_gradients(batch.rows(slice(image, image + 1)))
        if self.needs & Need.ABLATION:
            self.ablation.add(batch)

    def build_statistics(self) -> CalibrationStatistics:
        """The statistics over all batches."""
        needs = self.needs
        return CalibrationStatistics(
            self.images,
            tuple(self.readings) if needs & Need.ACTIVATIONS else None,
            {name: tuple(grams.values()) for name, grams in self.grams.items()}
            if needs & Need.GRAMS
            else None,
            self.gates if needs & Need.GATES else None,
            {name: squares / self.images for name, squares in self.curvature.items()}
            if needs & Need.CURVATURE
            else None,
            self.ablation.ablation() if needs & Need.ABLATION else None,
        )

    # -- what a framework implements

    @abstractmethod
    def add_values(self, batch: CalibrationBatch) -> None:
        """Add a batch to the readings, the grams or both, as needed."""

    @abstractmethod
    def add_gates(self, batch: CalibrationBatch) -> None:
        """Add a batch to the gates."""

    @abstractmethod
    def add_squared_gradients(self, image: CalibrationBatch) -> None:
        """Add one image to the curvature."""

    # -- helpers for it

    def note_reader(self, number: int, layer: str, units: Ids, strength: Sums) -> None:
        """Record a consumer of a reading; a new reading's number is the next one in order."""
        if number == len(self.readings):
            self.readings.append(ActivationStatistics(layer, units, np.zeros(len(units))))
        self.readings[number].reader_norm += strength

    def groups_among(self, units: Ids) -> Iterator[tuple[str, Ids]]:
        """Yield (group, indices of each channel) for groups whose channels lie along an axis."""
        for group in self.network.groups:
            rows = channel_index(self.network, group, units).rows
            if rows is not None:
                yield group.name, rows

    def gram_of(self, name: str, number: int, channels: int) -> Gram:
        """Return the products of a group's channels at a reading."""
        return self.grams[name].setdefault(number, Gram.empty(channels))
