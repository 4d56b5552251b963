"""Comparison of strategies on a user's own model and data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from secateurs.arguments import (
    CRITERION_LIST,
    FLAG,
    MODEL,
    NUMBERS,
    ONE_OR_MORE_NAMES,
    PATH,
    Kind,
    instance,
    is_whole,
    takes,
)
from secateurs.backends import backend_of, framework_of
from secateurs.calibration.racing import Scope
from secateurs.comparison.executors import SerialExecutor
from secateurs.comparison.job_runner import JobRunner
from secateurs.comparison.results import Results
from secateurs.comparison.runner import ComparisonCallback, run_comparison
from secateurs.comparison.settings import Comparison
from secateurs.errors import SecateursError
from secateurs.settings.training import Training
from secateurs.study.learning import learner_of, learning_of
from secateurs.study.sources import Sources, describe_task
from secateurs.training.feed import is_labelled_images
from secateurs.training.learner import Learner
from secateurs.training.task import LearningTask

Strategy = str | Callable[..., Any]

_ONLOOKER = instance(
    ComparisonCallback, "a secateurs.comparison.ComparisonCallback", SecateursError
)
_MOST_SEEDS = 10_000
_SEEDS = Kind(
    f"a whole number of 1 to {_MOST_SEEDS:,}",
    lambda value: is_whole(value, 1) and value <= _MOST_SEEDS,
)
_TRAINING = instance(
    Training, "a Training", SecateursError, "Such as training=secateurs.Training(batches=500)."
)


@takes(
    model=MODEL,
    strategies=CRITERION_LIST,
    amounts=NUMBERS,
    seeds=_SEEDS,
    training=_TRAINING.or_none(),
    directory=PATH,
    fresh=FLAG,
    skip=ONE_OR_MORE_NAMES,
    callback=_ONLOOKER.or_none(),
)
def compare(
    model: Any,
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    strategies: Sequence[Strategy] = ("l1", "apoz", "random"),
    amounts: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    seeds: int = 3,
    training: Training | None = None,
    directory: str | Path,
    fresh: bool = False,
    callback: ComparisonCallback | None = None,
    scope: Scope = "group",
    floor: float = 0.1,
    multiple: int | None = None,
    skip: Sequence[str] = (),
    unit: Literal["params", "macs", "channels", "size_mb"] = "params",
    rounds: int = 1,
    repair: bool = False,
    rewind: Literal["learning-rate"] | None = None,
    calibration_batches: int = 4,
    judge_on: Literal["validation", "test"] = "validation",
    task: str | LearningTask | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    metric: Any = None,
) -> Results:
    """Prune the same models by several strategies, train them alike, and compare the results.

    Args:
        model: the dense model, not changed; or a function of a seed that makes one to be trained.
        train, validation, test: as for ``iterate``; ``judge_on`` is the split for accuracies.
        strategies: criteria: names, optionally with ``@network`` or ``@group`` appended to set the
            scope, or functions of ``GroupData``; "auto" is one of them.
        amounts: shares to remove, of the parameters or of another ``unit``; one or several.
        seeds: number of seeds (of the data order, randomness, and models that are made here).
        training, callback: settings of all training; and a ``ComparisonCallback`` or None.
        directory, fresh: where results and the page are kept; resumed unless ``fresh``.
        scope, floor, multiple, skip: as for ``plan``; the scope is for strategies without one.
        unit: what amounts are shares of: "params", "macs", "channels" or "size_mb".
        rounds: number of equal steps to each amount, each scored and trained; 1 is one-shot.
        repair, rewind, task, loss, metric: as for ``iterate``; the metric is what is compared.
        calibration_batches: training batches for strategies that need data, and for repair.

    Returns:
        The results; ``print`` shows a table, ``directory`` holds compare.html.

    Raises:
        SecateursError: a setting is invalid, or the data or the model cannot be used.

    Example:
        >>> import tempfile, torch, secateurs as sec
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> data = torch.randn(32, 4), torch.arange(32) % 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = sec.compare(model, data, data, strategies=["l1"], seeds=1, directory=folder)
        >>> len(found.outcomes)
        4
    """
    return _compare(**locals())


def _compare(
    model: Any,
    train: Any,
    validation: Any,
    test: Any,
    *,
    strategies: Sequence[Strategy],
    training: Training | None,
    skip: str | Sequence[str],
    directory: str | Path,
    fresh: bool,
    callback: ComparisonCallback | None,
    task: str | LearningTask | None,
    loss: Callable[[Any, Any], Any] | None,
    metric: Any,
    **settings: Any,
) -> Results:
    """Sort the arguments of ``compare`` by what uses them, and run it; the rest are settings."""
    functions = {_name(one): one for one in strategies if callable(one)}
    chosen = training or Training()
    sources = Sources(train, validation, test)
    parts = {"loss": loss, "metric": metric}
    learning = _learning(model, chosen.seed, train, task, parts)
    built = model(chosen.seed) if _makes_models(model) else model
    chosen = backend_of(built).default_training(built, chosen)  # of Keras, as it is compiled
    first = learner_of(built, sources, chosen, learning)
    make = functools.partial(_learner, model, sources, chosen, learning)
    comparison = Comparison(
        task=describe_task(first.trace(), first, sources),
        training=chosen,
        strategies=tuple(_name(one) for one in strategies),
        skip=(skip,) if isinstance(skip, str) else tuple(skip),
        metric=first.metric.record_fields.get("metric", {}),
        **settings,
    )
    crew = SerialExecutor(JobRunner(comparison, make, functions=functions, loss=loss))
    return run_comparison(
        comparison, directory, crew, functions=functions, fresh=fresh, callback=callback
    )


def _learner(
    model: Any, sources: Sources, training: Training, learning: LearningTask | None, seed: int
) -> Learner:
    built = model(seed) if _makes_models(model) else model
    return learner_of(built, sources, training.model_copy(update={"seed": seed}), learning)


def _learning(
    model: Any, seed: int, train: Any, task: str | LearningTask | None, parts: Mapping[str, Any]
) -> LearningTask | None:
    """The task, for the models' framework; None for image classification."""
    given = {name for name, part in parts.items() if part is not None}
    if task is None and not given and is_labelled_images(train):
        return None  # without making a model, which may take long
    built = model(seed) if _makes_models(model) else model
    if task is None and given <= ({"loss"} if framework_of(built) == "keras" else set()):
        # A Keras model is trained as it was compiled. Where that is classification, there is no
        # task of its own, and the loss given here is for criteria only.
        found = backend_of(built).default_task(built, train)
        return found if found is None else found.with_own(loss=parts["loss"])
    if task is None and is_labelled_images(train):
        task = "classification"
    return learning_of(built, task, **parts)


def _name(strategy: Strategy) -> str:
    return getattr(strategy, "__name__", "own") if callable(strategy) else strategy


def _makes_models(model: Any) -> bool:
    """Whether this is a function that makes models, not a model, which is callable too."""
    return callable(model) and not hasattr(model, "get_weights") and not hasattr(model, "modules")
