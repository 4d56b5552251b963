"""What a dense model computes on its way, as something for a small one to learn from.

A small model keeps some of each layer's channels. What its layers read, taken times a matrix, is
nearly what the dense model's layers read, all of whose channels hold something about the images:
far more numbers to learn from than a few classes have, at no further pass through either model. The
matrix is fitted once, by ridge regression, and then stays: so the small model has to learn.

Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015 (there the matrix is trained).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Operations

PLACES = 64
"""At most so many places of an image, or words of a text, are compared."""

EXAMPLES = 64
"""Images by which hints are chosen."""

_SPANS = 3
"""Parts of a model of which one layer each is a hint, beside the last."""
_RIDGE = 1e-2
"""Of the mean variance of a channel."""
_ROWS = 2**14
_CANDIDATES = 32
_TOO_MUCH_LOST = 0.8
"""Relative squared error from which on the matrix says little of what the dense layer reads."""


@dataclass(frozen=True, eq=False)
class Hint:
    """A layer whose inputs are to become those of the dense model's.

    Attributes:
        layer: its name, the same in both models.
        weight: what the small model's inputs are taken times, shape (channels, dense channels).
        bias: is added, shape (dense channels,).
        scale: mean over places of the squared distance of the dense model's from their mean.
    """

    layer: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    scale: float


def _reshape(values: Any, shape: tuple[int, ...]) -> Any:
    return values.reshape(shape)


def spread(values: Any, reshape: Callable[[Any, tuple[int, ...]], Any] = _reshape) -> Any:
    """At most ``PLACES`` places of each image, evenly spread.

    Args:
        values: what a layer reads, channels last: shape (images, ..., channels), of any framework.
        reshape: (values, shape) -> values; TensorFlow's tensors have no method for it.

    Returns:
        Shape (images, places, channels).
    """
    images, channels = values.shape[0], values.shape[-1]
    places = int(np.prod(values.shape[1:-1], dtype=np.int64))
    rows = reshape(values, (images, places, channels))
    return rows[:, :: -(-places // PLACES)]


def candidates(layers: Sequence[str]) -> list[str]:
    """Of many layers some, evenly spread, the last among them."""
    count = min(len(layers), _CANDIDATES)
    chosen = np.linspace(0, len(layers) - 1, count).round().astype(int)
    return [layers[number] for number in chosen]


def choose_hints(
    small: Mapping[str, NDArray[Any]], dense: Mapping[str, NDArray[Any]], count: int
) -> tuple[Hint, ...]:
    """The last layer, and of each third of those before it the last that keeps most channels.

    Inside a residual branch few channels may be left, which say little about the dense model's;
    what goes on to many layers keeps a larger share.

    Args:
        small: layer -> what it reads for some images, as ``spread`` gives it, in the order of
            calls.
        dense: the same of the dense model, for the same images.
        count: of images; what has another number of rows does not go by image.

    Example:
        >>> dense = np.random.default_rng(0).normal(size=(50, 1, 3))
        >>> small = dense[..., :2] + 0.1
        >>> [hint.layer for hint in choose_hints({"head": small}, {"head": dense}, 50)]
        ['head']
    """
    found: list[tuple[float, Hint]] = []
    for layer, mine in small.items():
        theirs = dense.get(layer)
        if theirs is None or len(mine) != count or theirs.shape[:2] != mine.shape[:2]:
            continue
        if not (np.isfinite(mine).all() and np.isfinite(theirs).all()) or _equal(mine, theirs):
            continue
        lost, hint = _fit(layer, mine, theirs)
        if lost < _TOO_MUCH_LOST:
            found.append((mine.shape[-1] / theirs.shape[-1], hint))
    if not found:
        return ()
    *before, (_, last) = found
    spans = [part[::-1] for part in np.array_split(np.arange(len(before)), _SPANS) if len(part)]
    best = [max((before[number] for number in part), key=lambda one: one[0]) for part in spans]
    return (*(hint for _, hint in best), last)


Listen = Callable[[Any, Any, Sequence[str]], tuple[list[Any], Mapping[str, NDArray[Any]]]]
"""(model, images, layers) -> (what it gives in inference mode, layer -> what it reads)."""


def find_hints(
    listen: Listen, small: Any, dense: Any, images: CalibrationBatch, layers: Sequence[str]
) -> tuple[Hint, ...]:
    """Those of the layers that the small model is to learn from, by some of the images.

    Args:
        listen: of the framework.
        small: the model that learns.
        dense: the one it learns from.
        images: the first so many count.
        layers: names of the small model's that mix channels, in the order of calls.
    """
    some = images.rows(slice(0, EXAMPLES))
    chosen = candidates(layers)
    mine, theirs = (listen(model, some.images, chosen)[1] for model in (small, dense))
    return choose_hints(mine, theirs, len(some))


def teach(listen: Listen, dense: Any, hints: Sequence[Hint], images: Any) -> list[Any]:
    """What the dense model gives for images, and then what its layers read, hint by hint."""
    outputs, inputs = listen(dense, images, [hint.layer for hint in hints])
    return [*outputs, *(inputs[hint.layer] for hint in hints)]


def hint_distances(
    operations: Operations, hints: Sequence[Hint], dense: Sequence[Any], small: Sequence[Any]
) -> Any:
    """The sum over hints of the squared error relative to the spread, image by image, shape (N,).

    Args:
        operations: of the framework the tensors are of.
        hints: what is compared.
        dense: what the dense model's layers read, each as ``spread`` gives it.
        small: what the small model's layers read, taken times the matrices.
    """
    total: Any = 0.0
    for hint, theirs, mine in zip(hints, dense, small, strict=True):
        apart = operations.sum((mine - theirs) ** 2, (1, 2))
        total = total + apart / (hint.scale * theirs.shape[1])
    return total


def _fit(layer: str, small: NDArray[Any], dense: NDArray[Any]) -> tuple[float, Hint]:
    """(part of the dense variance that is not explained, the hint)."""
    mine, theirs = (_rows(values) for values in (small, dense))
    middle, target = mine.mean(axis=0), theirs.mean(axis=0)
    mine, theirs = mine - middle, theirs - target
    gram = mine.T @ mine
    ridge = _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    gram[np.diag_indices_from(gram)] += ridge
    weight = linalg.solve(gram, mine.T @ theirs, assume_a="pos")
    spread_of_all = float(np.square(theirs).sum())
    lost = float(np.square(theirs - mine @ weight).sum()) / (spread_of_all + 1e-30)
    scale = spread_of_all / len(theirs) or 1.0
    bias = target - middle @ weight
    return lost, Hint(layer, weight.astype(np.float32), bias.astype(np.float32), scale)


def _equal(small: NDArray[Any], dense: NDArray[Any]) -> bool:
    """Whether they read the same, as the first layers do the images."""
    return small.shape == dense.shape and np.allclose(small, dense)


def _rows(values: NDArray[Any]) -> NDArray[np.float64]:
    rows = values.reshape(-1, values.shape[-1])
    return rows[:: -(-len(rows) // _ROWS)].astype(np.float64)
