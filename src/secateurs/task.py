"""From what a task is called to its model and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateurs.configuration import Task
from secateurs.study import Sources

_SMALL, _MIDDLING = 64, 128


def built(task: Task, seed: int) -> tuple[Any, Sources]:
    """The model and the data of a task that says all that is needed.

    Args:
        task: by name.
        seed: of the model's initial weights.

    Raises:
        SecateursError: the model or the data cannot be had; the message says why.
    """
    from secateurs import api, data, models

    loaded = data.load(task.data, **task.data_options)
    images = {
        "classes": len(loaded.classes),
        "in_channels": loaded.shape[0],
        "size": loaded.shape[1],
    }
    options = with_stem(task.model, images | task.model_options, loaded.shape[1])
    import torch

    torch.manual_seed(seed)
    model = models.build(task.model, **options)
    if task.weights is not None:
        model = api.load(model, Path(task.weights))
    return model, Sources(loaded.train, loaded.validation, loaded.test)


def with_stem(name: str, options: dict[str, Any], size: int) -> dict[str, Any]:
    """The options, with the stem for images of this size where a ResNet of ours has none given."""
    if not name.startswith("resnet") or "stem" in options:
        return options
    fitting = "small" if size < _SMALL else "small-stride2" if size < _MIDDLING else "imagenet"
    return options | {"stem": fitting}
