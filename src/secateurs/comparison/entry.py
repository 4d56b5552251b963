"""Comparing strategies on a model and data of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from secateurs.arguments import (
    CRITERION_LIST,
    FLAG,
    MODEL,
    NAMES,
    NUMBERS,
    PATH,
    Kind,
    instance,
    is_whole,
    takes,
)
from secateurs.comparison.executors import SerialExecutor
from secateurs.comparison.job_runner import JobRunner
from secateurs.comparison.results import Results
from secateurs.comparison.runner import ComparisonCallback, run_comparison
from secateurs.comparison.settings import Comparison
from secateurs.errors import SecateursError
from secateurs.planning.removal_order import Scope
from secateurs.settings.training import Training
from secateurs.study.sources import Sources, describe_task
from secateurs.training.learner import Learner

Strategy = str | Callable[..., Any]

_ONLOOKER = instance(ComparisonCallback, "a secateurs.comparison.Onlooker", SecateursError)
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
    skip=NAMES,
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
    calibration_batches: int = 4,
    judge_on: Literal["validation", "test"] = "validation",
) -> Results:
    """Prune the same models by several strategies, train them alike, and compare what is left.

    Args:
        model: the dense model, unchanged; or a function of a seed that returns one, which is
            trained first where ``training.batches`` is above 0.
        train, validation, test: as for ``iterate``; ``judge_on`` says which accuracies are of.
        strategies: criteria: names, with ``@network`` or ``@group`` behind them to set the scope of
            one, or functions of ``GroupData``; "auto" is one of them.
        amounts: shares of the parameters to remove.
        seeds: how many; of the order of images and draws, and of the model if it is made.
        training: how to train, all alike.
        directory, fresh: where results are kept, and the page; one begun there goes on.
        callback: a ``ComparisonCallback``.
        scope, floor, multiple, skip: as for ``plan``; the scope, of strategies that name none.
        calibration_batches: training batches shown to a strategy that needs data.

    Returns:
        The results; ``print`` shows a table, ``directory`` holds compare.html.

    Raises:
        SecateursError: what was asked for cannot be done.

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
    **settings: Any,
) -> Results:
    """``compare``, its arguments sorted by who uses them; what is left over are settings."""
    own = {_name(one): one for one in strategies if callable(one)}
    chosen = training or Training()
    sources = Sources(train, validation, test)
    make = functools.partial(_learner, model, sources, chosen)
    first = make(chosen.seed)
    comparison = Comparison(
        task=describe_task(first.trace(), first, sources),
        training=chosen,
        strategies=tuple(_name(one) for one in strategies),
        skip=(skip,) if isinstance(skip, str) else tuple(skip),
        **settings,
    )
    crew = SerialExecutor(JobRunner(comparison, make, own=own))
    return run_comparison(comparison, directory, crew, own=own, fresh=fresh, callback=callback)


def _learner(model: Any, sources: Sources, training: Training, seed: int) -> Learner:
    from secateurs.backends import backend_of

    built = model(seed) if _makes_models(model) else model
    seeded = training.model_copy(update={"seed": seed})
    learner: Learner = backend_of(built).Learner(
        built, sources.train, sources.validation, sources.test, seeded
    )
    return learner


def _name(strategy: Strategy) -> str:
    return getattr(strategy, "__name__", "own") if callable(strategy) else strategy


def _makes_models(model: Any) -> bool:
    """Whether this is a function, and not a model, which can be called too."""
    return callable(model) and not hasattr(model, "get_weights") and not hasattr(model, "modules")
