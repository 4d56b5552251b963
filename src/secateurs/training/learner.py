"""The loop's interface to a framework: a model in training, its state and its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.peers import Peers
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport
from secateurs.measurement.speed import SpeedComparison
from secateurs.training.metric import Metric

DataPart = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        accuracy: share of correctly classified images; or the score by another metric, higher
            being better: see ``Metric``.
        loss: mean cross-entropy, or the task's own loss.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a model and its optimizer at some moment.

    Attributes:
        tensors: name -> tensor of the model, in the framework's own type.
        cut: the cut that leads from the dense model to it.
        optimizer: name -> tensor of the optimizer's state; empty if it was not kept.
        settings: the rest of the optimizer's state, as JSON-ready data.
        average: name -> average of the tensor over the batches of this stage; empty if none is
            computed. See ``Training.ema``.
    """

    tensors: Mapping[str, Any]
    cut: Cut
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    settings: Any = None
    average: Mapping[str, Any] = field(default_factory=dict)

    def take_average(self) -> Snapshot:
        """The snapshot with averaged values in place of the model's."""
        tensors = {**self.tensors, **self.average}
        return Snapshot(tensors, self.cut, self.optimizer, self.settings)

    def without_optimizer(self) -> Snapshot:
        """The snapshot without the optimizer's state."""
        return Snapshot(self.tensors, self.cut)


class Learner(Protocol):
    """A model in training: everything that a framework does for the loop.

    Several processes may hold one each and train together; then every method except ``speed`` is
    called by all of them, in the same order.
    """

    @property
    def model(self) -> Any:
        """The present model: the user's own type, without wrappers."""
        ...

    @property
    def cut(self) -> Cut:
        """The cut that leads from the dense model to the present one."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts; exactly one does."""
        ...

    @property
    def peers(self) -> Peers:
        """The processes, as far as they share sums over calibration images."""
        ...

    @property
    def metric(self) -> Metric:
        """Metric by which ``Evaluation.accuracy`` is a score."""
        ...

    @property
    def loss(self) -> Callable[[Any, Any], Any] | None:
        """Loss for criteria: (outputs, labels) -> one loss for each; None is cross-entropy."""
        ...

    @property
    def batches_an_epoch(self) -> int:
        """Number of batches in an epoch."""
        ...

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        ...

    def agree(self, decide: Callable[[], str]) -> str:
        """Broadcast what ``decide`` returns, or raises, in the main process to all others."""
        ...

    def wait(self) -> None:
        """Barrier: return once every process has reached it."""
        ...

    def trace(self) -> Network:
        """Trace the present model, for one image."""
        ...

    def calibration(self, batches: int) -> Iterable[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Training batches (images, labels), not augmented; can be iterated repeatedly."""
        ...

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train one batch per learning rate, from batch number ``first``; returns the mean loss.

        Averages of the weights continue from the last call, and restart after a cut. ``tick`` is
        called after each batch. Randomness in the model depends on the seed and ``first`` only.
        """
        ...

    def follow(self, dense: Snapshot) -> None:
        """From now on, train towards this model's outputs, as in ``training.distillation``."""
        ...

    def batches_of(self, part: DataPart) -> int:
        """Number of batches in the evaluation of a split."""
        ...

    def evaluate(
        self, part: DataPart, tick: Callable[[], None], averaged: bool = False
    ) -> Evaluation:
        """Evaluate the model on all images of a split; calls ``tick`` after each batch.

        With ``averaged``, the average of its weights is evaluated, if one is computed.
        """
        ...

    def apply(self, cut: Cut, network: Network | None = None) -> CutReport:
        """Apply a cut, and slice the optimizer's state too.

        The cut is proven if the network is given that it was planned on.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Copy the state of the model and the optimizer."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the model, and the optimizer if it was kept, to a snapshot."""
        ...

    def release(self) -> Any:
        """The model, moved back to its original device; the learner cannot be used afterwards."""
        ...

    def speed(self, dense: Snapshot) -> SpeedComparison:
        """Images per second of the model and of the dense one, measured interleaved."""
        ...

    def pack(self, tensors: Mapping[str, Any], text: Mapping[str, str]) -> bytes:
        """Pack tensors and text into the content of a safetensors file."""
        ...

    def unpack(self, content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
        """Unpack what ``pack`` wrote.

        Raises:
            CheckpointError: the content is damaged, or something else.
        """
        ...
