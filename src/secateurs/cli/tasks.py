"""Options that name a model, data and a task, for the commands that train or measure."""

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
"""Prefix of the names of text data."""
MODEL_OPTIONS = ("width", "stem", "through")
WHAT = "Model and data"

# Name, kind, panel, help.
TASK_OPTIONS: tuple[tuple[str, Any, str, str], ...] = (
    ("model", str, WHAT, HELP["model"]),
    ("width", int, WHAT, "Number of channels of the model's first stage."),
    (
        "stem",
        str,
        WHAT,
        "Stem of a ResNet: small, small-stride2 or imagenet; default: by image size.",
    ),
    ("option", list[str], WHAT, HELP["option"]),
    ("weights", str, WHAT, HELP["weights"]),
    ("task", str, WHAT, HELP["task"]),
    ("metric", str, WHAT, HELP["metric"]),
    ("data", str, WHAT, HELP["data"]),
    ("size", int, WHAT, HELP["size"]),
    ("normalise", str, WHAT, HELP["normalise"]),
    ("crop", float, WHAT, HELP["crop"]),
    ("tokenizer", str, WHAT, HELP["tokenizer"]),
    ("limit", int, WHAT, "Maximum number of training images, balanced over the classes."),
    (
        "validation",
        float,
        WHAT,
        "Share of the images used for validation. [dim]\\[default: 0.15][/dim]",
    ),
    (
        "test",
        float,
        WHAT,
        "Share of the images held out for the final test. [dim]\\[default: 0.15][/dim]",
    ),
)


def task_from(values: Mapping[str, Any], seed: int, example: str) -> Task:
    """Build the task that the options describe.

    Args:
        values: Values of the options that were given.
        seed: Seed of the data splits.
        example: Working command to show in the error message.

    Raises:
        SecateursError: the name of the model or of the data is missing.
    """
    for name in ("model", "data"):
        if name not in values:
            spelt = "MODEL" if name == "model" else f"--{name}"
            raise SecateursError(f"{spelt}: expected a name; received none. Try: {example}")
    values = of_texts(values)
    ready_metric(
        values.get("task"), values.get("metric")
    )  # raises early if there is no such metric
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
    """Complete the options for text data with the tokenizer and task of the model's directory.

    Raises:
        SecateursError: the task is neither given nor known from the directory.
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
            "--task: expected the task of a text model, such as language-modelling; received none, "
            f"and {values['model']} does not declare one"
        )
    return found


def as_trained(values: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Complete the options of a folder of images with a trained model's own preprocessing."""
    from secateurs import models

    if not str(values["data"]).startswith(("folder:", "grey:")):
        return options
    options = _size_of(str(values["model"])) | options
    if "normalise" in options or not is_trained(values):
        return options
    found = models.preprocessing_of(values["model"])
    if found is None:
        note(
            "the normalisation that the model was trained with is unknown; the mean and deviation "
            "of the folder's images are used. To choose another: --normalise imagenet, none or "
            "MEAN/STD"
        )
        return options
    note(f"images are preprocessed as in the model's training: {found}")
    settings: dict[str, Any] = {"normalise": found.as_text, "crop": found.crop}
    if found.size is not None:
        settings["size"] = found.size
    return settings | options


def _size_of(model: str) -> dict[str, Any]:
    """Size of the images that a Keras file takes, as an option of data; none of other models."""
    from secateurs.models.keras_files import image_size_in, is_keras_file

    size = image_size_in(model) if is_keras_file(model) else None
    return {} if size is None else {"size": size}


def is_trained(values: Mapping[str, Any]) -> bool:
    """Whether the options give weights, or a model that includes them."""
    name = str(values["model"])
    return "weights" in values or name.startswith(("transformers:", "hf:")) or ".keras" in name[-6:]


def doubts_of(
    network: Network, validation: Any, values: Mapping[str, Any], task: Task, **settings: Any
) -> tuple[str, ...]:
    """Doubts about the model and its data; see ``secateurs.study.premises``."""
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
    """A trained model and images to measure it on.

    Attributes:
        network: Traced model.
        images: Images and labels from the validation data, or batches of them.
        classes: Names of the classes; empty for another task than classification.
        doubts: Doubts about the model and its data.
        task: Name of the task; None is image classification.
    """

    network: Network
    images: tuple[NDArray[Any], NDArray[np.int64]] | list[Any]
    classes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    task: str | None = None

    def tell_doubts(self) -> None:
        """Print the doubts on stderr; called once the other arguments are known to be valid."""
        for doubt in self.doubts:
            note(doubt)


def probe_from(values: Mapping[str, Any], count: int, example: str) -> Probe:
    """Trace the model that the options name, and load the first validation images.

    Args:
        values: Values of the options that were given.
        count: Number of images; all of them if there are fewer.
        example: Working command to show in the error message.
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
    """Command line with these options; without --fresh, so that it continues a study."""
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
