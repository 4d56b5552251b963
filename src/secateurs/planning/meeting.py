"""Measurements on cut models, for budgets in units that only a finished model can be judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from secateurs.arguments import format_value
from secateurs.backends import backend_named, is_model
from secateurs.calibration.batches import iterate_batches
from secateurs.calibration.examples import read_batches
from secateurs.channels.cut import Cut
from secateurs.channels.file_size import FileKind
from secateurs.channels.network import Network
from secateurs.errors import BudgetError, DataError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.measurement.timing import Timing, clock_for, compare_times
from secateurs.planning.budget import UNITS, Budget
from secateurs.planning.timed_units import Predictor, TimedUnit
from secateurs.planning.trials import Foresight, Trial, TrialMaker, Trials
from secateurs.planning.tried_units import Drop
from secateurs.planning.units import Candidate, is_fraction
from secateurs.training.objectives import label_tokens, loss_in, objective_of
from secateurs.training.task import LearningTask

Measure = Callable[[Any], float]
FileBytes = Callable[[Any, FileKind], float]
"""(model, kind of file) -> size in bytes of the written file."""
_DENSE, _CUT = "the dense model", "the cut model"


def needs_trials(budget: Budget) -> bool:
    """Whether a budget can be met only by making and measuring models."""
    return any(unit.is_tried or unit.is_corrected for unit in budget.plain_units.values())


def meet(
    network: Network,
    budget: Budget,
    plan: Callable[[Budget], Cut],
    make: Callable[[Cut], Any],
    latency_model: LatencyModel | None,
    validation: Any,
    file_bytes: FileBytes,
) -> tuple[Any, Trial, list[Trial]]:
    """Meet a budget by making and measuring models: (model, its trial, all trials).

    Args:
        network: network of the dense model.
        budget: budget with a limit that is timed or tried.
        plan: function from a budget that can be predicted to a cut.
        make: function from a cut to a proven model.
        latency_model: for limits of time; else None.
        validation: (images, labels), batches of such, or a function model -> metric, larger being
            better; for a limit on the drop.
        file_bytes: function that measures a written file; for formats whose size is not predicted.

    Raises:
        BudgetError: it cannot be met; the message says the nearest that was measured.
        DataError: there is a limit on the drop and no data to measure it on.
        MeasurementError: the machine is too noisy to time.
    """
    limits: dict[str, float] = {}
    measure: dict[str, Callable[[Any], float]] = {}
    predict: dict[str, Callable[[Cut], float]] = {}
    foresight: TimedForesight | None = None
    timed = [name for name in budget.limits if isinstance(UNITS[name], TimedUnit)]
    if timed and latency_model is not None:
        timer = Timer(network, latency_model)
        limits |= {name: _limit_of_time(budget, name, latency_model) for name in timed}
        measure |= {name: timer.measure_in(name) for name in timed}
        foresight = TimedForesight(network, latency_model, timer, timed)
    if "size_mb" in budget.limits and not budget.file.is_foreseen:
        limits["size_mb"] = _limit_of_size(network, budget, file_bytes)
        measure["size_mb"] = lambda model: file_bytes(model, budget.file)
        predict["size_mb"] = partial(budget.plain_units["size_mb"].measure, network)
    if "drop" in budget.limits:
        if not callable(validation):  # a function's metric may have any unit
            Drop().check_share(budget.limits["drop"])
        metric = _metric_of(network, validation)
        dense = metric(network.source.model)
        limits["drop"] = float(budget.limits["drop"])
        measure["drop"] = lambda model: dense - metric(model)
    if "peak_memory_mb" in budget.limits:
        peak = _peak_memory(network)
        limits["peak_memory_mb"] = UNITS["peak_memory_mb"].absolute(
            budget.limits["peak_memory_mb"], peak(network.source.model)
        )
        measure["peak_memory_mb"] = peak
    units = budget.units(network, latency_model)
    sketch = partial(_unproven, network)
    maker = TrialMaker(plan, make, measure, limits, units, sketch, foresight, predict)
    trials = Trials(budget, maker)
    model, chosen = trials.run()
    return model, chosen, trials.made


def _limit_of_size(network: Network, budget: Budget, file_bytes: FileBytes) -> float:
    """Bytes that the file may have: of a share, the dense model's is written."""
    asked = budget.limits["size_mb"]
    whole = file_bytes(network.source.model, budget.file) if is_fraction(asked) else np.nan
    return budget.plain_units["size_mb"].absolute(asked, whole)


def _unproven(network: Network, cut: Cut) -> Any:
    """A model with the cut's widths but no proof: enough for its time and its file's size."""
    backend, source = backend_named(network.source.framework), network.source
    return backend.apply(source.model, cut, source.example_inputs, network=network, proof=False)


class Timer:
    """Times a cut model beside the dense one.

    Attributes:
        latest: the latest timing; None before the first.
    """

    def __init__(self, network: Network, latency_model: LatencyModel) -> None:
        self._backend = backend_named(network.source.framework)
        self._inputs = network.source.example_inputs
        self._latency_model = latency_model
        self._conditions = latency_model.conditions
        self.latest: Timing | None = None
        self._dense = self._backend.runner(network.source.model, self._inputs, self._conditions)

    def measure_in(self, name: str) -> Callable[[Any], float]:
        """A function from a model to its time in this unit."""
        unit = UNITS[name]
        if not isinstance(unit, TimedUnit):
            raise BudgetError(f"{name}: expected a unit of time")
        model_of, is_relative = self._latency_model, name in ("latency", "speedup")

        def measure(model: Any) -> float:
            small = self._backend.runner(model, self._inputs, self._conditions)
            timing = compare_times(
                {_DENSE: self._dense, _CUT: small},
                _DENSE,
                clock=clock_for(self._conditions),
                trusted=0.02,
            )[_CUT]
            self.latest = timing
            # A share of the dense model's time is a ratio within the same passes.
            taken = timing.ratio * model_of.dense_ms if is_relative else timing.median
            return unit.convert(taken, model_of.images)

        return measure


class TimedForesight(Foresight):
    """A latency model that learns from every cut timed on the way to a budget.

    Args:
        network: network of the dense model.
        model: latency model before the first timing.
        timer: timer that measures the cuts.
        units: names of the units of time in the budget.
    """

    def __init__(
        self, network: Network, model: LatencyModel, timer: Timer, units: Sequence[str]
    ) -> None:
        self._network, self._model, self._timer = network, model, timer
        self._units = [UNITS[name] for name in units]

    def foresee(self, cut: Cut) -> tuple[Mapping[str, float], float]:
        candidate = Candidate.after(self._network, cut)
        taken = Predictor(self._network, self._model).milliseconds(candidate)
        doubt = self._model.doubt(self._network, candidate.alive, candidate.blocks)
        images = self._model.images
        found = {u.name: u.convert(taken, images) for u in self._units if isinstance(u, TimedUnit)}
        return found, doubt

    def learn(self, cut: Cut) -> None:
        timing = self._timer.latest
        if timing is not None:
            self._model = self._model.learn(self._network, cut, timing.ratio, timing.error)


def _limit_of_time(budget: Budget, name: str, latency_model: LatencyModel) -> float:
    unit = UNITS[name]
    return unit.absolute(budget.limits[name], latency_model.dense_ms)


def judge_by_task(
    network: Network, validation: Any, task: str | LearningTask | None, metric: Any
) -> Any:
    """What ``drop`` is measured with: a function model -> score by a task's metric.

    Higher scores are better.

    Args:
        network: network of the dense model.
        validation: as for ``meet``; a function is returned as it is.
        task: what the model is for; None reads it from a compiled Keras model.
        metric: metric in place of the task's.
    """
    if callable(validation) or validation is None:
        return validation
    data = label_tokens(task, validation)
    learning = objective_of(network, task, None, metric, data)
    if learning is None:
        return validation
    loss, inputs = loss_in(learning, data), network.source.example_inputs
    batches = list(read_batches(data, inputs, "drop", loss, labels=True))
    backend = backend_named(network.source.framework)

    def score(model: Any) -> float:
        cut_network = backend.trace(model, inputs)
        _, found = backend.evaluate_cut(cut_network, Cut(), batches, (), loss, learning)
        if found is None:
            raise DataError(f"drop: expected a {learning.described_metric.name}; received none")
        return learning.described_metric.score(found)

    return score


def _as_finite(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            "drop: expected validation(model) to return a finite number, larger being better; "
            f"received {format_value(value)}"
        )
    return number


def _metric_of(network: Network, validation: Any) -> Measure:
    if is_model(validation):  # which can be called, but not with a model
        raise DataError(
            "drop: expected data to measure the drop on, or a function of a model that returns its "
            f"metric; received a model, {type(validation).__name__}. Give validation=(images, "
            "labels), not the test data."
        )
    if callable(validation):
        metric: Measure = validation
        return lambda model: _as_finite(metric(model))
    if validation is None:
        raise DataError(
            "drop: expected data to measure the drop on; received none. Give validation=(images, "
            "labels), not the test data, or validation= a function of a model that returns its "
            "metric, larger being better."
        )
    backend = backend_named(network.source.framework)
    inputs = network.source.example_inputs
    images = list(iterate_batches(validation, inputs, "drop", labels=True))

    def accuracy(model: Any) -> float:
        _, right = backend.evaluate_cut(backend.trace(model, inputs), Cut(), images)
        if right is None:
            raise DataError(
                "drop: expected a model that puts images into classes, and their labels; received "
                "another task's. Give validation= a function of a model that returns its metric."
            )
        return right

    return accuracy


def _peak_memory(network: Network) -> Callable[[Any], float]:
    backend, inputs = backend_named(network.source.framework), network.source.example_inputs
    return lambda model: backend.peak_memory(model, inputs) / 1e6
