"""The part of a learner that all frameworks share: its data and its initial model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from secateurs.channels.cut import Cut
from secateurs.channels.proof import CutReport, cut_of, keep_report_
from secateurs.training.feed import ClassLabels, Feed, FirstBatches, Images
from secateurs.training.learner import DataPart, Snapshot

Model = TypeVar("Model")


class FeedLearner(Generic[Model]):
    """The framework-free part of a ``secateurs.training.learner.Learner``.

    A framework's learner sets these attributes.

    Attributes:
        _model: the present model.
        _train_feed: the training images.
        _feeds: the images of the other parts.
    """

    _model: Model
    _train_feed: Feed
    _feeds: Mapping[DataPart, Feed]

    @property
    def model(self) -> Model:
        """The present model, without wrappers."""
        return self._model

    @property
    def cut(self) -> Cut:
        """The cut that leads from the dense model to the present one."""
        return cut_of(self._model)

    @property
    def batches_an_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self._train_feed)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return "test" in self._feeds

    def batches_of(self, part: DataPart) -> int:
        """Number of batches in the evaluation of a split."""
        return self._feeds[part].whole_length

    def calibration(self, batches: int) -> Iterable[tuple[Images, ClassLabels]]:
        """Training batches (images, labels), not augmented; can be iterated repeatedly."""
        return FirstBatches(self._train_feed, batches)


def rebuild(
    origin: Model,
    snapshot: Snapshot,
    cut_copy: Callable[[Model, Cut], Model],
    fill_: Callable[[Model, Mapping[str, Any]], None],
) -> Model:
    """Rebuild the model of a snapshot, without its optimizer.

    Args:
        origin: model at the start of training; it is not changed.
        snapshot: snapshot of a model that was cut from it.
        cut_copy: function that makes a copy with a cut applied.
        fill_: function that copies tensors into a model, or raises ``CheckpointError``.
    """
    # The initial model may have been cut before training: its own cut comes first.
    model = cut_copy(origin, snapshot.cut.since(cut_of(origin)))
    fill_(model, snapshot.tensors)
    if snapshot.cut:
        keep_report_(model, CutReport(snapshot.cut))
    return model
