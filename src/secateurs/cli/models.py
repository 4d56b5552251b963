"""Models and data by their names on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.backends import framework_of
from secateurs.cli.options import pairs_from, shape_from
from secateurs.cli.show import note
from secateurs.cli.tasks import as_trained
from secateurs.data.sets import Data
from secateurs.errors import CheckpointError, ModelError, SecateursError
from secateurs.files import KERAS_SUFFIX, MODEL_SUFFIX
from secateurs.models.keras_files import is_keras_file
from secateurs.models.names import is_our_resnet
from secateurs.study.building import explain_build_errors, in_layout_of, with_stem

USUAL_SHAPE = "1x3x224x224"


def build_model(
    name: str, options: Sequence[str], classes: int | None, weights: str | None, shape: str | None
) -> tuple[Any, Any, dict[str, Any]]:
    """Build a model; return (model, example input, options it was built with).

    Args:
        name: Name of the model, as ``secateurs.models.build`` takes it.
        options: Options of the model, NAME=VALUE each.
        classes: Number of outputs; None keeps the model's own number.
        weights: Weight file to load.
        shape: Shape of the example input, such as "1x3x224x224"; None is that of a Keras model's
            own inputs, and ``USUAL_SHAPE`` for others.
    """
    from secateurs import models

    wanted = pairs_from(options, "--option")
    if not is_keras_file(name):
        wanted |= _facts(
            name, wanted, classes, weights, shape_from(USUAL_SHAPE if shape is None else shape)
        )
    elif classes is not None:
        raise ModelError(f"--classes: expected none, since {name} is built; received {classes}")
    with explain_build_errors(name):
        model = models.build(name, **wanted)
    if weights is not None:
        model = load_weights(model, weights, name)
    return model, _example_for(model, name, shape), wanted


def build_for_images(
    name: str, options: Sequence[str], classes: int | None, weights: str | None, loaded: Data
) -> tuple[Any, Any, dict[str, Any], Data]:
    """Build a model for images; return what ``build_model`` does, and the images in its layout."""
    shape = "x".join(map(str, (1, *loaded.shape)))
    if not is_keras_file(name):
        classes = classes or len(loaded.classes)
    model, _, wanted = build_model(name, options, classes, weights, shape)
    arranged = in_layout_of(model, loaded)
    lengths = arranged.train.batch(slice(0, 1))[0].shape
    return model, _random(lengths), wanted, arranged


def _facts(
    name: str,
    wanted: dict[str, Any],
    classes: int | None,
    weights: str | None,
    lengths: tuple[int, ...],
) -> dict[str, Any]:
    """What the weights and the shape of the input say about a model, as options of it."""
    found: dict[str, Any] = {}
    if classes is None and weights is not None:
        classes = _classes_in(weights)
    if len(lengths) == 4:
        found = {"in_channels": lengths[1], "size": lengths[2]} | stem_of_weights(name, weights)
        found = with_stem(name, found | wanted, lengths[2])
    return found | ({} if classes is None else {"classes": classes})


def _example_for(model: Any, name: str, shape: str | None) -> Any:
    """Inputs of this shape, or of the shapes that a Keras model was built for."""
    if shape is not None or framework_of(model) != "keras":
        return _random(shape_from(USUAL_SHAPE if shape is None else shape))
    inputs = list(getattr(model, "inputs", None) or ())
    shapes = [tuple(one.shape) for one in inputs]
    if not shapes or any(None in lengths[1:] for lengths in shapes):
        raise ModelError(
            f"--input: expected the shape of an input, since {name} was built for any: "
            f"{', '.join(map(str, shapes)) or 'its inputs have no shapes'}. "
            + _advise_shape(shapes)
        )
    examples = [
        _random(lengths) if "float" in str(one.dtype) else np.ones(lengths, int)
        for one, lengths in zip(inputs, map(_of_one, shapes), strict=True)
    ]
    return examples[0] if len(examples) == 1 else examples


def _of_one(lengths: tuple[int | None, ...]) -> tuple[Any, ...]:
    """Shape of one example, or of as many as the model was built for."""
    return (lengths[0] or 1, *lengths[1:])


def _advise_shape(shapes: Sequence[tuple[int | None, ...]]) -> str:
    """Advise on an input of a model that was built for any length."""
    if len(shapes) > 1:
        return "It has several: name a function that builds it with fixed lengths, FILE.py:FUNCTION"
    lengths = shapes[0] if shapes else (None, None, None, 3)
    usual = 224 if len(lengths) == 4 else 16
    wanted = "x".join(str(length or usual) for length in _of_one(lengths))
    return f"Such as --input {wanted}, as the model takes them"


def _random(lengths: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(lengths).astype(np.float32)


def stem_of_weights(name: str, weights: str | None) -> dict[str, str]:
    """Return {'stem': 'imagenet'} if a ResNet's weights have that stem, whatever the image size."""
    from secateurs.pytorch.saving import read

    if weights is None or not is_our_resnet(name) or not Path(weights).exists():
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
    try:
        yield
    except CheckpointError as error:
        fits = None
        if weights is not None and "expected" in str(error) and not is_keras_file(name):
            from secateurs.pytorch.matching import nearest_model

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


def calibration_images(loaded: Data, count: int) -> tuple[Any, Any]:
    """Return the first training images and their labels.

    Raises:
        SecateursError: ``count`` is less than one.
    """
    if count < 1:
        raise SecateursError(f"--images: expected a number of at least 1; received {count}")
    return loaded.train.batch(slice(0, count))


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


def suffix_for(name: str) -> str:
    """Suffix of the file that a cut of this model is written to."""
    return KERAS_SUFFIX if is_keras_file(name) else MODEL_SUFFIX


def save_model(model: Any, place: Path) -> Path:
    """Write a cut model; return the file.

    It is a safetensors file where Keras's own format cannot hold the model: what was cut, perhaps
    for minutes, is not lost.
    """
    from secateurs import api

    try:
        api.save(model, place)
    except CheckpointError as error:
        if place.suffix != KERAS_SUFFIX:
            raise
        note(str(error))
        place = place.with_suffix(MODEL_SUFFIX)
        api.save(model, place)
    return place
