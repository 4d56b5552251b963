"""Hints: intermediate activations of the dense model as further targets for a small one.

A small model keeps some of each layer's channels. The inputs of its layers times a matrix nearly
give the inputs of the dense model's layers, all of whose channels carry information about the
images: many more targets than a few class scores, at no further pass through either model. The
matrix is fitted once by ridge regression and then fixed, so that it is the small model that learns.
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
"""Largest number of positions of an image (or tokens of a text) that are compared."""

EXAMPLES = 64
"""Number of images on which hints are chosen."""

_SPANS = 3
"""Number of parts of a model that contribute one hint each, besides the last layer."""
_RIDGE = 1e-2
"""Relative to the mean variance of a channel."""
_ROWS = 2**14
_CANDIDATES = 32
_TOO_MUCH_LOST = 0.8
"""Relative squared error above which the matrix explains too little of the dense inputs."""


@dataclass(frozen=True, eq=False)
class Hint:
    """A layer whose inputs should match those of the dense model's layer.

    Attributes:
        layer: its name, the same in both models.
        weight: matrix that maps the small model's inputs, shape (channels, dense channels).
        bias: added to the result, shape (dense channels,).
        scale: mean over positions of the dense inputs' squared distance from their mean.
    """

    layer: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    scale: float


def _reshape(values: Any, shape: tuple[int, ...]) -> Any:
    return values.reshape(shape)


def spread(values: Any, reshape: Callable[[Any, tuple[int, ...]], Any] = _reshape) -> Any:
    """Select at most ``PLACES`` evenly spaced positions of each image.

    Args:
        values: input of a layer, channels last: shape (images, ..., channels), of any framework.
        reshape: function (values, shape) -> values; TensorFlow's tensors have no such method.

    Returns:
        Shape (images, places, channels).
    """
    images, channels = values.shape[0], values.shape[-1]
    places = int(np.prod(values.shape[1:-1], dtype=np.int64))
    rows = reshape(values, (images, places, channels))
    return rows[:, :: -(-places // PLACES)]


def candidates(layers: Sequence[str]) -> list[str]:
    """Select evenly spaced layers, the last among them."""
    count = min(len(layers), _CANDIDATES)
    chosen = np.linspace(0, len(layers) - 1, count).round().astype(int)
    return [layers[number] for number in chosen]


def choose_hints(
    small: Mapping[str, NDArray[Any]], dense: Mapping[str, NDArray[Any]], count: int
) -> tuple[Hint, ...]:
    """Choose the last layer, and in each third of those before it the one that keeps most channels.

    Inside a residual branch few channels may be left, which explain little of the dense model's;
    the input of many later layers keeps a larger share.

    Args:
        small: layer -> its input for some images, as from ``spread``, in the order of calls.
        dense: the same of the dense model, for the same images.
        count: number of images; inputs with another number of rows are skipped.

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
"""(model, images, layers) -> (outputs in inference mode, layer -> its input)."""


def find_hints(
    listen: Listen,
    small: Any,
    dense: Any,
    images: CalibrationBatch,
    layers: Sequence[str],
    batch_size: int = EXAMPLES,
) -> tuple[Hint, ...]:
    """Choose hints for a small model on some of the images.

    Args:
        listen: the framework's function that runs a model and captures inputs of layers.
        small: the student.
        dense: the teacher.
        images: images, of which the first ``EXAMPLES`` are used.
        layers: names of the small model's channel-mixing layers, in the order of calls.
        batch_size: images in a pass through a model.
    """
    count = min(EXAMPLES, len(images))
    parts = [
        images.rows(slice(start, min(start + batch_size, count))).images
        for start in range(0, count, batch_size)
    ]
    chosen = candidates(layers)
    mine, theirs = (
        _join([listen(model, part, chosen)[1] for part in parts]) for model in (small, dense)
    )
    return choose_hints(mine, theirs, count)


def _join(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Layer -> its inputs for all parts; without layers that some parts do not call, as experts."""
    return {
        layer: np.concatenate([part[layer] for part in parts])
        for layer in parts[0]
        if len({part[layer].shape[1:] if layer in part else None for part in parts}) == 1
    }


def teach(listen: Listen, dense: Any, hints: Sequence[Hint], images: Any) -> list[Any]:
    """The dense model's outputs for images, followed by the input of each hint's layer."""
    outputs, inputs = listen(dense, images, [hint.layer for hint in hints])
    return [*outputs, *(inputs[hint.layer] for hint in hints)]


def hint_distances(
    operations: Operations, hints: Sequence[Hint], dense: Sequence[Any], small: Sequence[Any]
) -> Any:
    """Sum over hints of the squared error relative to the variance, per image, shape (N,).

    Args:
        operations: operations of the tensors' framework.
        hints: the hints.
        dense: inputs of the dense model's layers, each as from ``spread``.
        small: inputs of the small model's layers, mapped by the hints' matrices.
    """
    total: Any = 0.0
    for hint, theirs, mine in zip(hints, dense, small, strict=True):
        apart = operations.sum((mine - theirs) ** 2, (1, 2))
        total = total + apart / (hint.scale * theirs.shape[1])
    return total


def _fit(layer: str, small: NDArray[Any], dense: NDArray[Any]) -> tuple[float, Hint]:
    """(unexplained share of the dense variance, the hint)."""
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
    """Whether the inputs are equal, as those of the first layers are."""
    return small.shape == dense.shape and np.allclose(small, dense)


def _rows(values: NDArray[Any]) -> NDArray[np.float64]:
    rows = values.reshape(-1, values.shape[-1])
    return rows[:: -(-len(rows) // _ROWS)].astype(np.float64)
