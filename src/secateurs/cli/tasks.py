"""What commands that train share: the options that name a task, and the task they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.network import Network
from secateurs.cli.options import pairs_from
from secateurs.errors import SecateursError
from secateurs.settings.configuration import Task

DATA_OPTIONS = ("size", "limit", "validation", "test")
MODEL_OPTIONS = ("width", "stem")
WHAT = "What to prune, on what"

# Name, kind, panel, help.
TASK_OPTIONS: tuple[tuple[str, Any, str, str], ...] = (
    (
        "model",
        str,
        WHAT,
        "resnet18, -34, -50, -101, -152 (with through layers), vanilla_cnn, torchvision:NAME, "
        "timm:NAME, or package.module:function.",
    ),
    ("width", int, WHAT, "Channels of the model's first stage."),
    ("stem", str, WHAT, "Of a ResNet: small, small-stride2 or imagenet; by the images' size."),
    ("option", list[str], WHAT, "NAME=VALUE: any other option of the model; may be repeated."),
    ("weights", str, WHAT, "Weights to begin with: safetensors or a PyTorch state_dict."),
    (
        "data",
        str,
        WHAT,
        "digits, fashion-mnist, vehicles, folder:PATH, or package.module:function.",
    ),
    ("size", int, WHAT, "Height and width of the images in pixels; the data's own."),
    ("limit", int, WHAT, "Train on so many images only, of each class alike."),
    ("validation", float, WHAT, "Share of the images to choose by. [dim]\\[default: 0.15][/dim]"),
    ("test", float, WHAT, "Share kept for the end. [dim]\\[default: 0.15][/dim]"),
)


def task_from(values: Mapping[str, Any], seed: int, example: str) -> Task:
    """The task that options name.

    Args:
        values: of the options that were given.
        seed: of the data's splits.
        example: a command that works, for the message.

    Raises:
        SecateursError: the model or the data have no name.
    """
    for name in ("model", "data"):
        if name not in values:
            raise SecateursError(f"--{name}: expected a name; received none. Try: {example}")
    model_options = {name: values[name] for name in MODEL_OPTIONS if name in values}
    data_options = {name: values[name] for name in DATA_OPTIONS if name in values}
    return Task(
        model=values["model"],
        model_options=model_options | pairs_from(values.get("option", ()), "--option"),
        data=values["data"],
        data_options=data_options | {"seed": seed},
        weights=values.get("weights"),
        by_name=True,
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """A trained model and images to look at it with.

    Attributes:
        network: of the model.
        images: some of the validation data, and their labels.
        classes: the classes' names.
    """

    network: Network
    images: tuple[NDArray[Any], NDArray[np.int64]]
    classes: tuple[str, ...]


def probe_from(values: Mapping[str, Any], count: int, example: str) -> Probe:
    """The model that options name, traced, and the first validation images.

    Args:
        values: of the options that were given.
        count: how many images; all, where there are not so many.
        example: a command that works, for the message.
    """
    from secateurs import api, data
    from secateurs.study.building import build_task

    if count < 2:
        raise SecateursError(f"--images: expected a number of at least 2; received {count}")
    task = task_from(values, 0, example)
    model, sources = build_task(task, 0)
    images, labels = sources.validation.batch(slice(0, count))
    classes = data.load(task.data, **task.data_options).classes
    return Probe(api.trace(model, images[:1]), (images, labels), classes)


def command_line(command: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The command line that gives these options; it may go on with what is there."""
    words = ["secateurs", command]
    for name, value in given.items():
        dashed = name.replace("_", "-")
        if name == "fresh":
            continue
        if isinstance(value, bool):
            words.append(f"--{dashed}")
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{dashed}", str(one)]
    return tuple(words)
