"""Checks of a study before anything is written or hours of training are spent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from secateurs.channels.network import Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import check_known
from secateurs.criteria.scoring import try_own
from secateurs.errors import BudgetError, SecateursError
from secateurs.planning.planner import plan
from secateurs.settings.study import Configuration
from secateurs.study.goals import Goals
from secateurs.training.learner import Learner
from secateurs.training.metric import Metric


def check_study(
    learner: Learner,
    configuration: Configuration,
    criterion: str | Callable[[GroupData], Any] | None,
) -> Network:
    """Check that a study can be carried out.

    Returns:
        The network of the initial model.

    Raises:
        SecateursError: the model's forward raises, nothing in it can be pruned, no cut meets the
            budget, there is no such criterion or layer, or there is nothing to rewind to.
    """
    pruning, stop = configuration.pruning, configuration.stop
    if criterion is not None:
        check_known(criterion)
    if pruning.rewind and not configuration.training.batches:
        raise SecateursError(
            f"rewind={pruning.rewind!r} goes back into dense training: expected training.batches "
            "above 0; received 0. Train the dense model here, or leave rewind out."
        )
    _check_tolerance(stop.tolerance, learner.metric)
    network = learner.trace()
    if criterion is not None:
        data = learner.calibration(pruning.calibration_batches)
        try_own(network, criterion, data, learner.loss)
    level = {group.name: np.zeros(len(group)) for group in network.groups}
    options = pruning.planning_options
    smallest = plan(network, level, threshold=math.inf, **options)
    if stop.budget is None:
        return network
    goals = Goals.of(network, stop.budget)
    if goals.foreseen:
        foreseen = {name: goals.limits[name] for name in goals.foreseen}
        try:
            plan(network, level, **goals.planning_options(network, foreseen), **options)
        except BudgetError as error:  # it names absolute numbers
            asked = ", ".join(f"{name}={limit}" for name, limit in stop.budget.limits.items())
            raise BudgetError(f"budget {asked}: {error}") from error
    goals.check_memory(network, smallest)
    return network


def _check_tolerance(tolerance: float | None, metric: Metric) -> None:
    """Check a tolerance, which is in the metric's own units; 1 would be all of a share."""
    if tolerance is not None and metric.is_share and tolerance >= 1:
        raise SecateursError(
            f"stop: expected a tolerance below 1, a share of {metric.name} (0.005 is half a "
            f"point); received {tolerance}. To go on however much is lost: tolerance=None."
        )
