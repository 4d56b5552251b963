"""Models as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.cli.options import pairs_from, shape_from
from secateurs.errors import CheckpointError
from secateurs.study.building import with_stem


def built(
    name: str, options: Sequence[str], classes: int | None, weights: str | None, shape: str
) -> tuple[Any, Any, dict[str, Any]]:
    """(model, example input, options it was built with).

    Args:
        name: as ``secateurs.models.build`` takes it.
        options: NAME=VALUE each.
        classes: outputs; None leaves the model's own number.
        weights: a file to load.
        shape: of the example input, such as "1x3x224x224".
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
        wanted = with_stem(name, wanted, lengths[2])
    model = models.build(name, **wanted)
    if weights is not None:
        model = load_weights(model, weights, name)
    example = np.random.default_rng(0).standard_normal(lengths).astype(np.float32)
    return model, example, wanted


def load_weights(model: Any, weights: str, name: str) -> Any:
    """The model with the weights in a file.

    Raises:
        CheckpointError: they do not fit; the message names a model that they do fit.
    """
    from secateurs import api
    from secateurs.models.matching import nearest_model

    try:
        return api.load(model, Path(weights))
    except CheckpointError as error:
        fits = nearest_model(weights, name) if "expected" in str(error) else None
        if fits is None:
            raise
        raise CheckpointError(f"{error} These weights fit {fits}: name that model.") from error


def _classes_in(weights: str) -> int | None:
    """The number of classes that a file's weights have; None where it cannot be read as such."""
    from secateurs.pytorch.checkpoints import classes_in
    from secateurs.pytorch.saving import read

    try:
        state, cut = read(Path(weights))
    except CheckpointError:
        return None  # loading it says what is wrong
    return None if cut else classes_in(state)
