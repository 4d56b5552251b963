"""What the learners of all frameworks do alike: they know their data and where they began."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from secateurs.channels.cut import Cut
from secateurs.channels.proof import CutReport, cut_of, keep_report_
from secateurs.training.feed import ClassLabels, Feed, FirstBatches, Images
from secateurs.training.learner import DataPart, Snapshot

Model = TypeVar("Model")


class FeedLearner(Generic[Model]):
    """The part of a ``secateurs.training.learner.Learner`` that needs no framework.

    A framework's learner sets these attributes.

    Attributes:
        _model: as it is now.
        _train_feed: the training images.
        _feeds: those of the other parts.
    """

    _model: Model
    _train_feed: Feed
    _feeds: Mapping[DataPart, Feed]

    @property
    def model(self) -> Model:
        """The model as it is now, wrapped in nothing."""
        return self._model

    @property
    def cut(self) -> Cut:
        """What has gone since the dense model."""
        return cut_of(self._model)

    @property
    def batches_an_epoch(self) -> int:
        """Batches in which every training image is seen once."""
        return len(self._train_feed)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return "test" in self._feeds

    def batches_of(self, part: DataPart) -> int:
        """Batches in which a split is evaluated."""
        return self._feeds[part].whole_length

    def calibration(self, batches: int) -> Iterable[tuple[Images, ClassLabels]]:
        """Training batches (images, labels), as they are; can be gone through again."""
        return FirstBatches(self._train_feed, batches)


def rebuild(
    origin: Model,
    snapshot: Snapshot,
    cut_copy: Callable[[Model, Cut], Model],
    fill_: Callable[[Model, Mapping[str, Any]], None],
) -> Model:
    """The model that a snapshot was taken of, without its optimizer.

    Args:
        origin: what training began with; unchanged.
        snapshot: of a model that was cut from it.
        cut_copy: makes a copy with a cut made.
        fill_: puts tensors into a model, or raises ``CheckpointError``.
    """
    # The model that training began with may have been cut before: its own cut comes first.
    model = cut_copy(origin, snapshot.cut.since(cut_of(origin)))
    fill_(model, snapshot.tensors)
    if snapshot.cut:
        keep_report_(model, CutReport(snapshot.cut))
    return model
