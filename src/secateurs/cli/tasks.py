"""What commands that train share: the options that name a task, and the task they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.examples import first_batches
from secateurs.calibration.padding import example_with_padding
from secateurs.channels.network import Network
from secateurs.cli.options import pairs_from
from secateurs.cli.show import note
from secateurs.cli.vocabulary import HELP
from secateurs.errors import SecateursError
from secateurs.models.names import DIRECTORY_SOURCES
from secateurs.settings.study import Task
from secateurs.training.task import ready_metric

DATA_OPTIONS = ("size", "limit", "validation", "test", "normalise", "crop", "tokenizer")
TEXT = "text:"
"""How the name of data begins that are texts."""
MODEL_OPTIONS = ("width", "stem", "through")
WHAT = "What to prune, on what"

# Name, kind, panel, help.
TASK_OPTIONS: tuple[tuple[str, Any, str, str], ...] = (
    ("model", str, WHAT, HELP["model"]),
    ("width", int, WHAT, "Channels of the model's first stage."),
    ("stem", str, WHAT, "Of a ResNet: small, small-stride2 or imagenet; by the images' size."),
    ("option", list[str], WHAT, HELP["option"]),
    ("weights", str, WHAT, HELP["weights"]),
    ("task", str, WHAT, HELP["task"]),
    ("metric", str, WHAT, HELP["metric"]),
    ("data", str, WHAT, HELP["data"]),
    ("size", int, WHAT, HELP["size"]),
    ("normalise", str, WHAT, HELP["normalise"]),
    ("crop", float, WHAT, HELP["crop"]),
    ("tokenizer", str, WHAT, HELP["tokenizer"]),
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
            spelt = "MODEL" if name == "model" else f"--{name}"
            raise SecateursError(f"{spelt}: expected a name; received none. Try: {example}")
    values = of_texts(values)
    ready_metric(values.get("task"), values.get("metric"))  # or it says now that there is none
    model_options = {name: values[name] for name in MODEL_OPTIONS if name in values}
    data_options = {name: values[name] for name in DATA_OPTIONS if name in values}
    return Task(
        model=values["model"],
        model_options=model_options | pairs_from(values.get("option", ()), "--option"),
        data=values["data"],
        data_options=as_trained(values, data_options) | {"seed": seed},
        weights=values.get("weights"),
        learning=values.get("task"),
        metric=values.get("metric"),
        by_name=True,
    )


def of_texts(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options; of texts, with the tokenizer and the task that the model's directory says.

    Raises:
        SecateursError: it does not say what the model learns of texts.
    """
    from secateurs.models.tokenizers import task_of_directory

    if not str(values["data"]).startswith(TEXT):
        if "tokenizer" in values:
            raise SecateursError(
                f"--tokenizer: expected --data text:PATH beside it; received {values['data']}"
            )
        return values
    source, _, place = str(values["model"]).partition(":")
    found = dict(values)
    if source in DIRECTORY_SOURCES:
        found.setdefault("tokenizer", place)
        found.setdefault("task", task_of_directory(Path(place)))
    if found.get("task") is None:
        raise SecateursError(
            "--task: expected what the model learns of texts, such as language-modelling; received "
            f"none, and {values['model']} does not say"
        )
    return found


def as_trained(values: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options of a folder of images, with what a trained model's own configuration says."""
    from secateurs import models

    if not str(values["data"]).startswith(("folder:", "grey:")) or "normalise" in options:
        return options
    if not is_trained(values):
        return options
    found = models.preprocessing_of(values["model"])
    if found is None:
        note(
            "nothing says how the model's images were normalised in training; the folder's own "
            "mean and deviation are taken. If it was otherwise: --normalise imagenet, none or "
            "MEAN/STD"
        )
        return options
    note(f"images as the model was trained: {found}")
    settings: dict[str, Any] = {"normalise": found.as_text, "crop": found.crop}
    if found.size is not None:
        settings["size"] = found.size
    return settings | options


def is_trained(values: Mapping[str, Any]) -> bool:
    """Whether the options name weights, or a model that comes with its own."""
    name = str(values["model"])
    return "weights" in values or name.startswith(("transformers:", "hf:")) or ".keras" in name[-6:]


def doubts_of(
    network: Network, validation: Any, values: Mapping[str, Any], task: Task, **settings: Any
) -> tuple[str, ...]:
    """What is doubtful about the model and its data; see ``secateurs.study.premises``."""
    from secateurs.study.premises import doubts

    normalisation = str(task.data_options.get("normalise", "data"))
    return tuple(
        doubts(
            network,
            validation,
            is_trained=is_trained(values),
            normalisation=normalisation,
            **settings,
        )
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """A trained model and images to look at it with.

    Attributes:
        network: of the model.
        images: some of the validation data, and their labels; or batches of them.
        classes: the classes' names; none where the task is another.
        doubts: what is doubtful about them.
        task: what the model is for; None is to classify images.
    """

    network: Network
    images: tuple[NDArray[Any], NDArray[np.int64]] | list[Any]
    classes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    task: str | None = None

    def tell_doubts(self) -> None:
        """Say them on stderr; once what was asked for is known to make sense."""
        for doubt in self.doubts:
            note(doubt)


def probe_from(values: Mapping[str, Any], count: int, example: str) -> Probe:
    """The model that options name, traced, and the first validation images.

    Args:
        values: of the options that were given.
        count: how many images; all, where there are not so many.
        example: a command that works, for the message.
    """
    from secateurs import api
    from secateurs.data.sets import Data, Split
    from secateurs.study.building import build_task, load_data

    if count < 2:
        raise SecateursError(f"--images: expected a number of at least 2; received {count}")
    task = task_from(values, 0, example)
    model, sources = build_task(task, 0)
    if not isinstance(sources.validation, Split):
        batches, example = first_batches(sources.validation, count)
        network = api.trace(model, example_with_padding(example, batches))
        return Probe(network, batches, (), task=task.learning)
    images, labels = sources.validation.batch(slice(0, count))
    loaded = load_data(task)
    classes = loaded.classes if isinstance(loaded, Data) else ()
    network = api.trace(model, images[:1])
    found = doubts_of(network, sources.validation, values, task, tolerance=None)
    return Probe(network, (images, labels), classes, found, task.learning)


def command_line(command: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The command line that gives these options; it may go on with what is there."""
    words = ["secateurs", command]
    for name, value in given.items():
        dashed = name.replace("_", "-")
        if name == "fresh":
            continue
        if name == "model":
            words.insert(2, str(value))
            continue
        if isinstance(value, bool):
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{dashed}", str(one)]
    return tuple(words)
