"""Sums over calibration images that several processes share, through Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs import errors
from secateurs.channels.arrays import Sums
from secateurs.errors import SecateursError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class ProcessPeers:
    """This process among all that an Accelerator knows; see ``secateurs.calibration.peers.Peers``.

    Args:
        accelerator: the processes, which are two or more.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes

    def total(self, arrays: Sequence[NDArray[Any]]) -> list[Sums]:
        """Sum each array over the processes, all of them in one message."""
        flat = [np.asarray(one, np.float64).reshape(-1) for one in arrays]
        sent = torch.from_numpy(np.concatenate([np.zeros(0), *flat])).to(self._accelerator.device)
        summed = self._accelerator.reduce(sent, reduction="sum").cpu().numpy()
        parts = np.split(summed, np.cumsum([len(one) for one in flat])[:-1]) if flat else []
        return [part.reshape(np.shape(one)) for part, one in zip(parts, arrays, strict=True)]

    def gather(self, value: T) -> list[T]:
        """Collect every process's value, in the order of their numbers."""
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found

    def gather_in_main(self, value: T) -> list[T]:
        """Collect every process's value in process 0, for values that are large."""
        every: list[Any] = [None] * self.count
        torch.distributed.gather_object(value, every if self.rank == 0 else None)
        return every if self.rank == 0 else []

    def from_main(self, compute: Callable[[], T]) -> T:
        """The result of ``compute`` in process 0, in every process.

        Raises:
            SecateursError: in every process, what ``compute`` raised in process 0.
        """
        from accelerate.utils import broadcast_object_list

        verdict: list[Any] = [None, None]
        if self.rank == 0:
            try:
                verdict = [None, compute()]
            except SecateursError as error:
                verdict = [type(error).__name__, str(error)]
        kind, value = broadcast_object_list(verdict)
        if kind is not None:
            raise getattr(errors, kind, SecateursError)(value)
        found: T = value
        return found
