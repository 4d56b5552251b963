"""Model, calibration data and evaluation of the commands that cut a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from secateurs.backends import backend_named
from secateurs.calibration.examples import first_batches, read_batches
from secateurs.calibration.padding import example_with_padding
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.cli.models import (
    build_for_images,
    build_model,
    calibration_images,
    load_data,
    naming_the_nearest,
    validation_images,
)
from secateurs.cli.options import pairs_from
from secateurs.cli.tasks import TEXT, task_from
from secateurs.data.sets import Data
from secateurs.errors import SecateursError
from secateurs.formatting import percent
from secateurs.training.metric import Metric
from secateurs.training.objectives import label_tokens, loss_in, objective_of

_ACCURACY = Metric()


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of a model and data on a command line.

    Attributes:
        model: Name of the model, as ``secateurs.models.build`` takes it.
        options: Options of the model, NAME=VALUE each.
        weights: Weight file; None keeps the model's own weights.
        shape: Shape of the example input, if there are no data; None is the model's own.
        classes: Number of outputs; None is the number of the weights or the data.
        data: Name of the data; None is no data.
        images: Number of images to use.
        normalise: As ``data.load`` takes it; so are ``size`` and ``crop``.
        task: Name of the task; None is image classification.
        metric: Name of the metric; None is the task's own.
        tokenizer: of texts, a directory; None takes the model's own.
    """

    model: str
    options: Sequence[str] = ()
    weights: str | None = None
    shape: str | None = None
    classes: int | None = None
    data: str | None = None
    images: int = 512
    normalise: str | None = None
    size: int | None = None
    crop: float | None = None
    task: str | None = None
    metric: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with its calibration data and the evaluation of the result.

    Attributes:
        model: The model, trained or not.
        example: Example inputs.
        options: Options it was built with.
        calibration: Calibration data from the training split; None without data.
        validation: Data or function that measures a drop, as ``prune`` takes it; None without data.
        judge: Function from a model to its metric on validation data, or None if it is unknown.
        metric: Metric that ``judge`` returns.
        judged_on: Number and kind of validation examples, in words.
    """

    model: Any
    example: Any
    options: dict[str, Any]
    calibration: Any = None
    validation: Any = None
    judge: Callable[[Any], float | None] = lambda _: None
    metric: Metric = _ACCURACY
    judged_on: str = ""

    def compare(self, small: Any) -> str | None:
        """Describe the metric before and after a cut in a sentence; None if it is unknown."""
        before, after = self.judge(self.model), self.judge(small)
        if before is None or after is None:
            return None
        shown = percent if self.metric == _ACCURACY else self.metric.text
        name = self.metric.name
        return (
            f"{name[:1].upper()}{name[1:]} on {self.judged_on}: {shown(before)} before the cut, "
            f"{shown(after)} after it, before any fine-tuning."
        )


def find_subject(naming: Naming) -> Subject:
    """Build the model and load the data that a command line names.

    Raises:
        SecateursError: the model or data do not exist, or do not fit together.
    """
    is_text = naming.data is not None and naming.data.startswith(TEXT)
    if naming.task is not None or naming.metric is not None or is_text:
        return _of_task(naming)
    if naming.data is None:
        dense, example, options = build_model(
            naming.model, naming.options, naming.classes, naming.weights, naming.shape
        )
        return Subject(dense, example, options)
    loaded = load_data(
        naming.data, naming.model, naming.weights, naming.normalise, naming.size, naming.crop
    )
    return _of_images(naming, loaded)


def _of_images(naming: Naming, loaded: Data) -> Subject:
    from secateurs import api
    from secateurs.study.premises import MOST_IMAGES, accuracy_of

    dense, example, options, loaded = build_for_images(
        naming.model, naming.options, naming.classes, naming.weights, loaded
    )
    calibration = calibration_images(loaded, naming.images)
    count = min(len(loaded.validation), MOST_IMAGES)
    return Subject(
        dense,
        example,
        options,
        calibration,
        validation_images(loaded, naming.images),
        lambda model: accuracy_of(api.trace(model, example), loaded.validation),
        judged_on=f"{count} validation images",
    )


def _of_task(naming: Naming) -> Subject:
    from secateurs import api
    from secateurs.study.building import build_task

    if naming.images < 1:
        raise SecateursError(f"--images: expected a number of at least 1; received {naming.images}")
    values = {
        "model": naming.model,
        "data": naming.data,
        "task": naming.task,
        "metric": naming.metric,
        "weights": naming.weights,
        "option": [*naming.options],
        **{name: getattr(naming, name) for name in ("normalise", "size", "crop", "tokenizer")},
    }
    if naming.classes is not None:
        values["option"].append(f"classes={naming.classes}")
    given = {name: value for name, value in values.items() if value not in (None, [])}
    task = task_from(given, 0, "secateurs prune MODEL --data mine:load --task regression ...")
    with naming_the_nearest(naming.model, naming.weights):
        model, sources = build_task(task, 0)
    calibration, example = first_batches(sources.train, naming.images)
    held, _ = first_batches(sources.validation, naming.images)
    example = example_with_padding(example, [*calibration, *held])
    network = api.trace(model, example)
    held = label_tokens(task.learning, held)
    learning = objective_of(network, task.learning, None, naming.metric, data=held)
    metric = _ACCURACY if learning is None else learning.described_metric
    loss = None if learning is None else loss_in(learning, held)
    batches = list(read_batches(held, network.source.example_inputs, "validation", loss))

    def judge(small: Any) -> float | None:
        cut_network: Network = api.trace(small, example)
        backend = backend_named(cut_network.source.framework)
        return backend.evaluate_cut(cut_network, Cut(), batches, (), loss, learning)[1]

    def score(small: Any) -> float:
        found = judge(small)
        if found is None:
            raise SecateursError(
                f"drop: expected a task that measures {metric.name}; this one measures none"
            )
        return metric.score(found)

    examples = sum(map(len, batches))
    options = pairs_from(given.get("option", ()), "--option")
    return Subject(
        *(model, example, options, calibration, score, judge, metric),
        judged_on=f"{examples} validation examples",
    )
