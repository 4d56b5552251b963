"""Kinds of model outputs, and the divergence between two models' outputs.

There is one definition: it is evaluated in NumPy, and PyTorch and Keras train with it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import special

from secateurs.errors import DataError, UnknownNameError, nearest

OutputKind = Literal["categorical", "bernoulli", "relative", "embedding"]
KINDS: tuple[str, ...] = get_args(OutputKind)
_ALSO_CALLED = {"gaussian": "relative"}
"""For a normal distribution of fixed variance, the divergence is the relative squared error."""

_LEAST = 1e-7
"""Least probability: a float32 sigmoid or softmax cannot resolve less near 1."""
_CLOSE = 1e-3


class Operations(Protocol):
    """Operations needed by a divergence, on any framework's tensors."""

    def log_softmax(self, x: Any, axis: int) -> Any: ...
    def log_sigmoid(self, x: Any) -> Any: ...
    def exp(self, x: Any) -> Any: ...
    def log(self, x: Any) -> Any: ...
    def clip(self, x: Any, low: float, high: float) -> Any: ...
    def sum(self, x: Any, axes: tuple[int, ...]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Output:
    """Interpretation of one output of a model.

    Attributes:
        kind: a distribution over classes, independent probabilities, numbers, or directions.
        axis: axis of the classes, probabilities or direction, counted from the end.
        probabilities: whether values are probabilities, not scores before softmax or sigmoid.
        scale: for numbers, the mean over images of their squared distance from their mean.
    """

    kind: OutputKind
    axis: int = -1
    probabilities: bool = False
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.kind}{' probabilities' if self.probabilities else ''}"


def read_outputs(
    outputs: Sequence[NDArray[Any]],
    kind: str | Sequence[str] | None = None,
    *,
    channels_first: bool = False,
) -> tuple[Output, ...]:
    """Determine how to interpret a dense model's outputs.

    Without a given kind they are classified by their values: rows that sum to one are distributions
    over classes, values between zero and one are probabilities, rows of length one are directions,
    other rows of at least two numbers are scores of classes, and everything else is numbers.

    Args:
        outputs: outputs of the dense model on some images, each of shape (N, ...).
        kind: kind of all outputs, or of each; "gaussian" is an alias of "relative".
        channels_first: whether scores of classes for each pixel, (N, classes, H, W), have the
            classes along axis 1; otherwise the last axis is used.

    Raises:
        UnknownNameError: no such kind.
        DataError: there are no outputs, the number of kinds does not match, or the dense model
            returns NaN or infinity.
    """
    if not outputs:
        raise DataError("expected a model with an output of floating-point numbers; received none")
    kinds = [kind] * len(outputs) if kind is None or isinstance(kind, str) else list(kind)
    if len(kinds) != len(outputs):
        raise DataError(
            f"expected one kind of output, or one for each of the model's {len(outputs)}; "
            f"received {len(kinds)}"
        )
    return tuple(
        _read(np.asarray(values, np.float64), asked, channels_first)
        for values, asked in zip(outputs, kinds, strict=True)
    )


def divergence(
    operations: Operations, output: Output, dense: Any, small: Any, temperature: float = 1.0
) -> Any:
    """Divergence of an output from the dense model's, image by image, shape (N,).

    Args:
        operations: operations of the tensors' framework.
        output: interpretation of the output.
        dense: the dense model's output, shape (N, ...).
        small: the other model's output, of the same shape.
        temperature: softens distributions and probabilities; the divergence is multiplied by its
            square, so that gradients keep their size.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015.
    """
    of, axes = operations, (output.axis,)
    if output.kind == "relative":
        return of.sum((small - dense) ** 2, tuple(range(1, len(small.shape)))) / output.scale
    if output.kind == "embedding":
        product = of.sum(dense * small, axes)
        lengths = (of.sum(dense**2, axes) * of.sum(small**2, axes) + _LEAST**2) ** 0.5
        return _by_image(of, 1 - product / lengths)
    heat = 1 / temperature
    if output.kind == "categorical":
        mine, theirs = (_log_softmax(of, output, values, heat) for values in (small, dense))
        apart = of.sum(of.exp(theirs) * (theirs - mine), axes)
    else:
        mine, theirs = (_logits(of, output, values) * heat for values in (small, dense))
        yes, no = of.log_sigmoid(theirs), of.log_sigmoid(-theirs)
        apart = of.sum(
            of.exp(yes) * (yes - of.log_sigmoid(mine)) + of.exp(no) * (no - of.log_sigmoid(-mine)),
            axes,
        )
    return temperature**2 * _by_image(of, apart)


def divergences(
    outputs: Sequence[Output],
    dense: Sequence[NDArray[Any]],
    small: Sequence[NDArray[Any]],
    temperature: float = 1.0,
) -> NDArray[np.float64]:
    """Sum of ``divergence`` over all outputs, in NumPy, shape (N,).

    Example:
        >>> import numpy as np
        >>> scores = np.log([[0.5, 0.5], [0.9, 0.1]])
        >>> even = np.zeros((2, 2))
        >>> divergences([Output("categorical")], [scores], [even]).round(3).tolist()
        [0.0, 0.368]
    """
    theirs, mine = ([np.asarray(one, np.float64) for one in given] for given in (dense, small))
    total: NDArray[np.float64] = sum_divergences(NUMPY, outputs, theirs, mine, temperature)
    return total


def sum_divergences(
    operations: Operations,
    outputs: Sequence[Output],
    dense: Sequence[Any],
    small: Sequence[Any],
    temperature: float = 1.0,
) -> Any:
    """Sum of ``divergence`` over all outputs, image by image, shape (N,).

    This is the loss of every model that is trained to match a dense one: by ``distil``, or in a
    loop.

    Args:
        operations: operations of the tensors' framework.
        outputs: interpretation of each output.
        dense: outputs of the dense model.
        small: outputs of the other model.
        temperature: as for ``divergence``.
    """
    apart = [
        divergence(operations, output, theirs, mine, temperature)
        for output, theirs, mine in zip(outputs, dense, small, strict=True)
    ]
    return functools.reduce(operator.add, apart)


def _read(values: NDArray[np.float64], asked: str | None, channels_first: bool) -> Output:
    asked = _ALSO_CALLED.get(asked or "", asked)
    if asked is not None and asked not in KINDS:
        raise UnknownNameError(f"no kind of output {asked!r}{nearest(asked, KINDS)}")
    if not values.ndim:
        raise DataError(
            "expected outputs of each example; received a single number for all, such as a loss. "
            "Leave the labels out of the inputs"
        )
    if not np.isfinite(values).all():
        raise DataError("expected a dense model with finite outputs; received NaN or infinity")
    axis, sums = _axis_of_sums(values, channels_first)
    within = values.size > 0 and values.min() >= 0 and values.max() <= 1
    kind = asked or _kind_of(values, sums, within)
    if kind == "categorical":
        return Output("categorical", axis, sums)
    if kind == "bernoulli":
        return Output("bernoulli", -1, bool(within))
    if kind == "embedding":
        return Output("embedding")
    spread = np.square(values - values.mean(axis=0)).reshape(len(values), -1).sum(axis=1).mean()
    size = np.square(values).reshape(len(values), -1).sum(axis=1).mean()
    # Outputs that are the same for every image are measured by their size instead.
    scale = spread if spread > 1e-12 * size else size
    return Output("relative", scale=float(scale) or 1.0)


def _axis_of_sums(values: NDArray[np.float64], channels_first: bool) -> tuple[int, bool]:
    """(axis of the classes, whether values sum to one along it)."""
    axis = 1 - values.ndim if channels_first and values.ndim > 3 else -1
    if values.ndim < 2 or not values.size or values.min() < 0:
        return axis, False
    return axis, bool(np.abs(values.sum(axis=axis) - 1).max() < _CLOSE)


def _kind_of(values: NDArray[np.float64], sums: bool, within: bool) -> OutputKind:
    if sums:
        return "categorical"
    if within:
        return "bernoulli"
    if values.ndim != 2 or values.shape[1] < 2:
        return "relative"
    lengths = np.linalg.norm(values, axis=1)
    return "embedding" if np.abs(lengths - 1).max() < _CLOSE else "categorical"


def _log_softmax(of: Operations, output: Output, values: Any, heat: float) -> Any:
    if output.probabilities:
        values = of.log(of.clip(values, _LEAST, 1.0))
    return of.log_softmax(values * heat, output.axis)


def _logits(of: Operations, output: Output, values: Any) -> Any:
    if not output.probabilities:
        return values
    values = of.clip(values, _LEAST, 1 - _LEAST)
    return of.log(values) - of.log(1 - values)


def _by_image(of: Operations, values: Any) -> Any:
    """Mean over all positions of an image."""
    axes = tuple(range(1, len(values.shape)))
    return of.sum(values, axes) / float(np.prod(values.shape[1:])) if axes else values


class _NumPy:
    """The operations in NumPy."""

    def log_softmax(self, x: Any, axis: int) -> Any:
        return special.log_softmax(x, axis)

    def log_sigmoid(self, x: Any) -> Any:
        return special.log_expit(x)

    def exp(self, x: Any) -> Any:
        return np.exp(x)

    def log(self, x: Any) -> Any:
        return np.log(x)

    def clip(self, x: Any, low: float, high: float) -> Any:
        return np.clip(x, low, high)

    def sum(self, x: Any, axes: tuple[int, ...]) -> Any:
        return np.sum(x, axis=axes)


NUMPY: Operations = _NumPy()
