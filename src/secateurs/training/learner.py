"""What the loop asks of a framework: a model in training, its values and how well it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport
from secateurs.measurement.speed import SpeedComparison
from secateurs.training.metric import Metric

DataPart = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model does.

    Attributes:
        accuracy: share of the images put into the right class; or what another metric makes of
            the model, higher being better: see ``Metric``.
        loss: mean cross-entropy, or the task's own.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's values at some moment, and its optimizer's.

    Attributes:
        tensors: of the model, in the framework's own kind, by name.
        cut: what leads from the dense model to it.
        optimizer: tensors of the optimizer's state, by name; empty where it was not kept.
        settings: the rest of the optimizer's state, as JSON can hold it.
        average: of the tensors over the batches of this stage, by the same names; empty where none
            is taken. See ``Training.ema``.
    """

    tensors: Mapping[str, Any]
    cut: Cut
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    settings: Any = None
    average: Mapping[str, Any] = field(default_factory=dict)

    def take_average(self) -> Snapshot:
        """The same with the average's values in the place of the model's."""
        tensors = {**self.tensors, **self.average}
        return Snapshot(tensors, self.cut, self.optimizer, self.settings)

    def without_optimizer(self) -> Snapshot:
        """The model's values alone."""
        return Snapshot(self.tensors, self.cut)


class Learner(Protocol):
    """A model in training: everything a framework has to do for the loop.

    Several processes may hold one each and train together; then every method but ``speed`` is
    called by all of them, in the same order.
    """

    @property
    def model(self) -> Any:
        """The model as it is now: the user's own kind, wrapped in nothing."""
        ...

    @property
    def cut(self) -> Cut:
        """What has gone since the dense model."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts; one does."""
        ...

    @property
    def metric(self) -> Metric:
        """What ``Evaluation.accuracy`` is a score by."""
        ...

    @property
    def loss(self) -> Callable[[Any, Any], Any] | None:
        """What criteria go by: (outputs, labels) -> one loss for each; None is cross-entropy."""
        ...

    @property
    def batches_an_epoch(self) -> int:
        """Batches in which every training image is seen once."""
        ...

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        ...

    def agree(self, decide: Callable[[], str]) -> str:
        """What ``decide`` returns in the main process, or raises there; the same in all others."""
        ...

    def wait(self) -> None:
        """Return once every process has come this far."""
        ...

    def trace(self) -> Network:
        """The network of the model as it is now, for one image."""
        ...

    def calibration(self, batches: int) -> Iterable[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Training batches (images, labels), as they are; can be gone through again."""
        ...

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train on batches number ``first`` and on, one for each learning rate; their mean loss.

        Averages of the weights go on from the last call, and begin anew after a cut. Calls ``tick``
        after each batch. What is random in the model depends on the seed and ``first`` alone.
        """
        ...

    def follow(self, dense: Snapshot) -> None:
        """From now on, train towards this model's outputs as ``training.distillation`` says."""
        ...

    def batches_of(self, part: DataPart) -> int:
        """Batches in which a split is evaluated."""
        ...

    def evaluate(
        self, part: DataPart, tick: Callable[[], None], averaged: bool = False
    ) -> Evaluation:
        """How well the model does on all images of a split; calls ``tick`` after each batch.

        Or how well the average of its weights does, where one is taken.
        """
        ...

    def apply(self, cut: Cut, network: Network | None = None) -> CutReport:
        """Make a cut, the optimizer's state sliced along.

        Proven where the network is given that the cut was planned on.
        """
        ...

    def snapshot(self) -> Snapshot:
        """A copy of the model's and the optimizer's values."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Make the model, and where it was kept the optimizer, what they were."""
        ...

    def release(self) -> Any:
        """The model, back on the device it came from; the learner is of no more use."""
        ...

    def speed(self, dense: Snapshot) -> SpeedComparison:
        """Images a second of the model and of the dense one, measured in turns."""
        ...

    def pack(self, tensors: Mapping[str, Any], text: Mapping[str, str]) -> bytes:
        """Tensors and text as the content of a safetensors file."""
        ...

    def unpack(self, content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
        """What ``pack`` was given.

        Raises:
            CheckpointError: the content is damaged, or something else.
        """
        ...
