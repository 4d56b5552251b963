"""Fidelity of a small model's outputs to the dense one's, without labels.

- ``categorical``: scores of classes; the Kullback-Leibler divergence from the dense network's
  probabilities to the small one's, and the share of predictions that agree;
- ``bernoulli``: independent probabilities, or scores before a sigmoid; the divergence summed over
  them;
- ``embedding``: directions; one minus the cosine similarity;
- ``loss``: increase of the task's own loss, where labels are given with it;
- ``relative``: anything else; the squared error relative to the variance of the outputs (0 is
  exact, 1 is as good as a constant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.outputs import divergences, read_outputs
from secateurs.calibration.peers import Peers
from secateurs.formatting import percent

OutputArrays = Sequence[NDArray[Any]]
"""Outputs of a model for some images: its floating-point tensors, images along axis 0."""


NUMBERS_A_TEXT = 2**21
"""Largest number of scores by which one text is judged."""

LOSS = "loss"
"""The kind of outputs that are one loss for each image."""

MEASURES = {
    "relative": "relative squared error",
    "embedding": "1 - cosine",
    LOSS: "loss, above the dense network's",
}
"""Measures of kinds that are not distributions; for distributions it is the KL divergence."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Distance of a model's outputs from the dense network's.

    Attributes:
        kind: kind of outputs: 'categorical', 'bernoulli', 'embedding', 'loss' or 'relative'.
        distance: mean over images, in nats, or relative squared error; 0 is exact.
        error: standard error of that mean.
        agreement: share of predictions that equal the dense network's; None without classes.
        images: number of images.
        distances: distance of each image, shape (images,), for paired comparison of models; None
            where they were not kept.
    """

    kind: str
    distance: float
    error: float
    agreement: float | None
    images: int
    distances: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def is_surely_below(self, other: Fidelity) -> bool:
        """Whether this model is nearer to the dense network, by more than noise explains.

        Both must be judged on the same images. Differences are taken image by image, so that what
        makes an image hard for both models cancels; their mean must be below zero by more than its
        standard error.

        Example:
            >>> def of(*distances):
            ...     each = np.array(distances)
            ...     return Fidelity("relative", each.mean(), 0.0, None, len(each), each)
            >>> of(1.0, 2.0, 3.0).is_surely_below(of(1.1, 2.1, 3.1))
            True
            >>> of(1.0, 2.0, 3.0).is_surely_below(of(2.0, 1.9, 2.2))
            False
        """
        if self.distances is None or other.distances is None or not np.isfinite(other.distance):
            return self.distance < other.distance
        if not np.isfinite(self.distance):
            return False
        gains = other.distances - self.distances
        return bool(gains.mean() > gains.std() / np.sqrt(len(gains)))

    def __str__(self) -> str:
        name = MEASURES.get(self.kind, "KL")
        agrees = "" if self.agreement is None else f", {percent(self.agreement)} agree"
        return f"{name} {self.distance:.4g} +- {self.error:.2g}{agrees} ({self.images} images)"


def kind_of(outputs: OutputArrays, asked: str | None = None) -> str:
    """Determine the kind of outputs: as requested, else judged by their values.

    Several outputs are judged together, by relative squared error.

    Raises:
        UnknownNameError: there is no such kind.
    """
    read = read_outputs(outputs, asked)
    return read[0].kind if len(read) == 1 else "relative"


@dataclass(eq=False, slots=True)
class Judge:
    """Compares outputs with the dense network's, batch by batch.

    Attributes:
        kind: kind of outputs, as from ``kind_of``.
    """

    kind: str
    _distances: list[NDArray[np.float64]] = field(default_factory=list)
    _agreements: list[NDArray[np.float64]] = field(default_factory=list)
    _spreads: list[_Spread] = field(default_factory=list)

    def add(self, dense: OutputArrays, small: OutputArrays) -> None:
        """Add the outputs of both networks for some images."""
        if self.kind == "relative":
            self._add_relative(dense, small)
            return
        right, found = (np.asarray(some_places(o[0]), np.float64) for o in (dense, small))
        if self.kind == LOSS:
            self._distances.append(found - right)
            return
        if self.kind != "categorical":
            read = read_outputs([right], self.kind)
            self._distances.append(divergences(read, [right], [found]))
            return
        right, found = _classes_last(right), _classes_last(found)
        self._distances.append(_per_image(categorical_divergence(right, found)))
        same = (right.argmax(-1) == found.argmax(-1)).astype(np.float64)
        self._agreements.append(_per_image(same))

    def _add_relative(self, dense: OutputArrays, small: OutputArrays) -> None:
        if not self._spreads:
            self._spreads = [_Spread() for _ in dense]
        rows = []
        for spread, right, found in zip(self._spreads, dense, small, strict=True):
            one, other = (np.asarray(o, np.float64).reshape(len(o), -1) for o in (right, found))
            spread.add(one)
            rows.append(np.square(one - other).sum(axis=1))
        self._distances.append(np.stack(rows, axis=1))

    def gather(self, peers: Peers) -> Judge:
        """A judge of the images of all processes, in the order of the processes."""
        every = peers.gather((self._distances, self._agreements, self._spreads))
        distances, agreements, spreads = zip(*every, strict=True)
        return Judge(
            self.kind,
            [part for parts in distances for part in parts],
            [part for parts in agreements for part in parts],
            [_Spread.of_all(parts) for parts in zip(*spreads, strict=True)],
        )

    def verdict(self) -> Fidelity:
        """Fidelity over everything added; a distance that is not finite counts as infinite."""
        distances = np.concatenate(self._distances)
        if self.kind == "relative":
            sizes = np.array([max(spread.mean_square(), 1e-300) for spread in self._spreads])
            distances = (distances / sizes).mean(axis=1)
        distances = np.where(np.isfinite(distances), distances, np.inf)
        agreement = float(np.concatenate(self._agreements).mean()) if self._agreements else None
        mean = float(distances.mean())
        error = float(distances.std() / np.sqrt(len(distances))) if np.isfinite(mean) else np.inf
        return Fidelity(self.kind, mean, error, agreement, len(distances), distances)


@dataclass(eq=False, slots=True)
class _Spread:
    """Sums for the variance of outputs about their mean, over images."""

    images: int = 0
    total: Any = 0.0
    squares: float = 0.0

    @classmethod
    def of_all(cls, parts: Sequence[_Spread]) -> _Spread:
        return cls(*(sum(getattr(part, one.name) for part in parts) for one in fields(cls)))

    def add(self, rows: NDArray[np.float64]) -> None:
        self.images += len(rows)
        self.total = self.total + rows.sum(axis=0)
        self.squares += float(np.square(rows).sum())

    def mean_square(self) -> float:
        about_mean = self.squares - float(np.square(self.total).sum()) / self.images
        # Constant outputs have no variance: their mean square is the reference instead.
        alive = about_mean > 1e-9 * self.squares
        return (about_mean if alive else self.squares) / self.images


def some_places(scores: NDArray[Any]) -> NDArray[Any]:
    """Thin out scores of shape (texts, places, classes) to evenly spaced places.

    Scores over 49,152 words at 512 places take 100 MB per text, and neighbouring places say much
    the same about how near two models are. Applying it again keeps all places, because the dense
    model's scores were thinned already when they were stored.

    Example:
        >>> some_places(np.zeros((2, 5, 3))).shape, some_places(np.zeros((2, 8, 2**19))).shape
        ((2, 5, 3), (2, 4, 524288))
    """
    if scores.ndim != 3:
        return scores
    length, classes = scores.shape[1:]
    count = max(1, NUMBERS_A_TEXT // max(1, classes))
    if length <= count:
        return scores
    return scores[:, ((np.arange(count) + 0.5) * length / count).astype(np.int64)]


def answers_in(outputs: OutputArrays, kind: str) -> int:
    """Number of answers per example: for texts, one at each place; else 1."""
    first = outputs[0]
    return first.shape[1] if kind == "categorical" and first.ndim == 3 else 1


def categorical_divergence(
    dense: NDArray[np.float64], small: NDArray[np.float64]
) -> NDArray[np.float64]:
    """KL(dense || small) along the last axis, from scores or from probabilities.

    Example:
        >>> scores = np.log(np.array([[0.5, 0.5]]))
        >>> categorical_divergence(scores, np.log(np.array([[0.25, 0.75]]))).round(4)
        array([0.1438])
    """
    right, found = _log_probabilities(dense), _log_probabilities(small)
    divergence: NDArray[np.float64] = (np.exp(right) * (right - found)).sum(axis=-1)
    return np.maximum(divergence, 0)


def _log_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if are_probabilities(scores):
        return np.log(np.maximum(scores, 1e-12))
    shifted = scores - scores.max(axis=-1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def _classes_last(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move the class axis of score maps, (images, classes, height, width), to the end."""
    return np.moveaxis(scores, 1, -1) if scores.ndim > 3 else scores


def _per_image(values: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = values.reshape(len(values), -1).mean(axis=1)
    return means


def are_probabilities(scores: NDArray[Any]) -> bool:
    """Whether scores are probabilities along the last axis already."""
    return bool((scores >= 0).all() and np.abs(scores.sum(axis=-1) - 1).max(initial=0) < 1e-3)
