"""Calibration data of which each of several processes reads its own part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateurs.calibration.examples import as_given, read_batches
from secateurs.calibration.peers import ALONE, Peers, can_share, own_part


def share(data: Any, peers: Peers) -> Any:
    """The data, of which each of several processes reads its own part."""
    return data if peers.count == 1 else SharedData(data, peers)


@dataclass(frozen=True, eq=False, slots=True)
class SharedData:
    """Calibration data that every process holds, and of which each reads its own part.

    Attributes:
        data: as for ``secateurs.score``.
        peers: the processes.
    """

    data: Any
    peers: Peers

    def part(self, example_inputs: Any, caller: str, loss: Any) -> tuple[list[Any], Peers]:
        """(this process's batches, the processes to sum over).

        Every process reads all images, alone, if there are fewer than processes.

        Args:
            example_inputs: inputs that the network was traced with.
            caller: name of what needs the data, for messages.
            loss: loss that the data are for.

        Raises:
            DataError: the data cannot be used.
        """
        batches = list(read_batches(self.data, example_inputs, caller, loss, labels=False))
        if not can_share([len(batch) for batch in batches], self.peers):
            return [as_given(batch) for batch in batches], ALONE
        parts = (batch.rows(own_part(len(batch), self.peers)) for batch in batches)
        return [as_given(part) for part in parts if len(part)], self.peers
