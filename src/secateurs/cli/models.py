"""Models and data by their names on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.cli.options import pairs_from, shape_from
from secateurs.cli.tasks import as_trained
from secateurs.data.sets import Data
from secateurs.errors import CheckpointError, SecateursError
from secateurs.study.building import explain_build_errors, with_stem


def build_model(
    name: str, options: Sequence[str], classes: int | None, weights: str | None, shape: str
) -> tuple[Any, Any, dict[str, Any]]:
    """Build a model; return (model, example input, options it was built with).

    Args:
        name: Name of the model, as ``secateurs.models.build`` takes it.
        options: Options of the model, NAME=VALUE each.
        classes: Number of outputs; None keeps the model's own number.
        weights: Weight file to load.
        shape: Shape of the example input, such as "1x3x224x224".
    """
    from secateurs import models

    lengths = shape_from(shape)
    wanted = pairs_from(options, "--option")
    if classes is None and weights is not None:
        classes = _classes_in(weights)
    if classes is not None:
        wanted["classes"] = classes
    if len(lengths) == 4:
        wanted = {"in_channels": lengths[1], "size": lengths[2]} | wanted
        wanted = stem_of_weights(name, weights) | wanted
        wanted = with_stem(name, wanted, lengths[2])
    with explain_build_errors(name):
        model = models.build(name, **wanted)
    if weights is not None:
        model = load_weights(model, weights, name)
    example = np.random.default_rng(0).standard_normal(lengths).astype(np.float32)
    return model, example, wanted


def stem_of_weights(name: str, weights: str | None) -> dict[str, str]:
    """Return {'stem': 'imagenet'} if a ResNet's weights have that stem, whatever the image size."""
    from secateurs.pytorch.saving import read

    if weights is None or not name.startswith("resnet") or not Path(weights).exists():
        return {}
    try:
        state, _ = read(Path(weights))
    except CheckpointError:
        return {}  # loading it reports the error
    first = next((value for key, value in state.items() if key.endswith("conv1.weight")), None)
    first = state.get("stem.conv.weight", first)
    is_imagenet = first is not None and tuple(first.shape)[2:] == (7, 7)
    return {"stem": "imagenet"} if is_imagenet else {}


@contextmanager
def naming_the_nearest(name: str, weights: str | None) -> Iterator[None]:
    """If weights do not fit a model, name the model that they fit.

    Raises:
        CheckpointError: the weights do not fit.
    """
    from secateurs.pytorch.matching import nearest_model

    try:
        yield
    except CheckpointError as error:
        fits = None
        if weights is not None and "expected" in str(error):
            fits = nearest_model(weights, name)
        if fits is None:
            raise
        raise CheckpointError(f"{error} These weights fit {fits}: name that model.") from error


def load_data(
    name: str,
    model: str,
    weights: str | None = None,
    normalise: str | None = None,
    size: int | None = None,
    crop: float | None = None,
) -> Data:
    """Load data, normalised and sized as in the model's training if that is known."""
    from secateurs import data

    values = {"model": model, "data": name} | ({"weights": weights} if weights else {})
    given = {"normalise": normalise, "size": size, "crop": crop}
    options = {key: value for key, value in given.items() if value is not None}
    return data.load(name, **as_trained(values, options))


def calibration_images(
    loaded: Data, count: int, classes: int | None
) -> tuple[tuple[Any, Any], str, int | None]:
    """Return (training images and labels, shape of one image, number of classes).

    Raises:
        SecateursError: ``count`` is less than one.
    """
    if count < 1:
        raise SecateursError(f"--images: expected a number of at least 1; received {count}")
    shape = "x".join(map(str, (1, *loaded.shape)))
    return loaded.train.batch(slice(0, count)), shape, classes or len(loaded.classes)


def validation_images(loaded: Data, count: int) -> tuple[Any, Any]:
    """Return ``count`` validation images with their labels, or all if there are fewer."""
    return loaded.validation.batch(slice(0, count))


def load_weights(model: Any, weights: str, name: str) -> Any:
    """Load the weights in a file into the model.

    Raises:
        CheckpointError: the weights do not fit; the message names a model that they fit.
    """
    from secateurs import api

    with naming_the_nearest(name, weights):
        return api.load(model, Path(weights))


def _classes_in(weights: str) -> int | None:
    """Return the number of classes of a weight file; None if it cannot be determined."""
    from secateurs.pytorch.checkpoints import classes_in
    from secateurs.pytorch.saving import read

    try:
        state, cut = read(Path(weights))
    except CheckpointError:
        return None  # loading it reports the error
    return None if cut else classes_in(state)
