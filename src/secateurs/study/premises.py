"""Warnings about a model and its data before hours of training are spent on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.backends import backend_named
from secateurs.calibration.batches import iterate_batches
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.data.sets import Split
from secateurs.errors import DataError
from secateurs.formatting import percent

MOST_IMAGES = 512
"""Validation images on which a model is tried; far fewer tell skill from chance."""

_STANDARD_ERRORS = 3.0
"""Standard errors above chance that a trained model must reach."""


def doubts(
    network: Network,
    validation: Split,
    *,
    tolerance: float | None,
    is_trained: bool,
    will_be_trained: bool = False,
    normalisation: str = "",
) -> Iterator[str]:
    """Yield one line for each doubtful premise.

    Args:
        network: network of the model.
        validation: validation data.
        tolerance: accuracy loss that a study allows, as a share; None for no limit.
        is_trained: whether weights were given.
        will_be_trained: whether the dense model is trained first.
        normalisation: how the images are normalised, for the message.
    """
    count = len(validation)
    if tolerance is not None and count * tolerance < 1:
        yield (
            f"the validation data hold {count} images: one image is {100 / count:.2g} points of "
            f"accuracy, more than the tolerance of {100 * tolerance:.2g}. Use more "
            "(--validation), or a larger --tolerance."
        )
    if will_be_trained:
        return
    if not is_trained:
        yield (
            "the model's weights are random, and it is not trained first: the results say "
            "nothing about a trained one. Pass --weights FILE, or train it with 'secateurs run "
            "--train-batches N'."
        )
        return
    found = accuracy_of(network, validation)
    if found is not None and _is_near_chance(found, validation.labels):
        present = f" (now {normalisation})" if normalisation else ""
        yield (
            f"the weights given classify {percent(found)} of the validation images right, which "
            f"is about chance for {len(np.unique(validation.labels))} classes: the images may be "
            f"normalised or sized differently than in training{present}; see --normalise, --size "
            "and --crop. Or the classes are in another order, or the weights are another model's."
        )


def accuracy_of(network: Network, split: Split, cut: Cut | None = None) -> float | None:
    """Accuracy of a network, or of what a cut leaves, on the first images of a split.

    Args:
        network: as traced; it is not changed.
        split: labelled images.
        cut: the cut; None for none.

    Returns:
        The accuracy; None if the outputs are not scores of classes.
    """
    source: Any = network.source
    some = split.batch(slice(0, MOST_IMAGES))
    backend = backend_named(network.source.framework)
    try:
        images = list(iterate_batches(some, source.example_inputs, "accuracy", labels=True))
        return backend.evaluate_cut(network, cut or Cut(), images)[1]
    except DataError:
        if getattr(source, "is_by_values", False):
            return None  # a detector gives boxes
        raise


def _is_near_chance(accuracy: float, labels: NDArray[np.int64]) -> bool:
    """Whether always predicting the most common class could do as well."""
    _, counts = np.unique(labels[:MOST_IMAGES], return_counts=True)
    tried = int(counts.sum())
    chance = float(counts.max()) / tried
    return accuracy <= chance + _STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / tried)
