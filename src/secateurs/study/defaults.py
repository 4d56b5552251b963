"""Defaults of a study that depend on its model and data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from secateurs.backends import can_repair
from secateurs.calibration.examples import StepLoss, length_of
from secateurs.channels.network import Network
from secateurs.criteria.registry import AUTO
from secateurs.errors import SecateursError
from secateurs.reconstruction.calibration import FEW_IMAGES
from secateurs.reconstruction.pruner import Request, open_dense, read_images
from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training
from secateurs.training.learner import Learner
from secateurs.training.task import LearningTask

ENOUGH_TO_REPAIR = 128
"""Number of images for which small batches are added to those of ``calibration_batches``."""

DISTILLATION = 0.5
"""The best of three values on validation data: ``docs/results.md``, "Training a round"."""


def complete_training(
    training: Training, pruning: Pruning, learning: LearningTask | None
) -> Training:
    """Fill in the training settings that were left open.

    Args:
        training: settings as given.
        pruning: settings of the rounds.
        learning: the task; None is image classification.
    """
    if training.distillation is not None:
        return training
    plain = learning is None and training.optimizer != "compiled" and pruning.rewind is None
    return training.model_copy(update={"distillation": DISTILLATION if plain else 0.0})


def complete_pruning(pruning: Pruning, learner: Learner, network: Network) -> Pruning:
    """Fill in the settings of rounds that were left open.

    Cuts are repaired if that is possible, and error curves then decide how far each group is cut:
    measured in ``docs/results.md``, "The demo".

    Args:
        pruning: settings as given.
        learner: learner of the initial model.
        network: its trace.
    """
    repair, allocation = pruning.repair, pruning.allocation
    if repair is None:
        repair = not pruning.rewinds_weights and _can_be_repaired(pruning, learner, network)
    if allocation is None:
        decided = pruning.scope is not None or pruning.criterion == AUTO
        allocation = "curves" if repair and not pruning.rewinds_weights and not decided else "scope"
    return pruning.model_copy(
        update={
            "repair": repair,
            "allocation": allocation,
            "scope": pruning.scope or "group",
            "criterion": pruning.criterion or (None if allocation == "curves" else "l1"),
        }
    )


def read_for_repair(pruning: Pruning, learner: Learner) -> Iterable[Any]:
    """Training batches for a repair.

    Where the model trains with its own loss, as detectors do, batches have the size that its memory
    allows: more of them are read where they are small.
    """
    count = pruning.calibration_batches
    first = next(iter(learner.calibration(1)), None)
    if first is not None and isinstance(learner.loss, StepLoss):
        count = max(count, -(-ENOUGH_TO_REPAIR // max(1, length_of(first))))
    return learner.calibration(count)


def _can_be_repaired(pruning: Pruning, learner: Learner, network: Network) -> bool:
    """Whether there are enough examples, and the model can be run on them without targets."""
    source: Any = network.source
    if not can_repair(source.framework):
        return False
    data = read_for_repair(pruning, learner)
    try:
        images = read_images(network, data, "repair")
        if sum(map(len, images)) < FEW_IMAGES:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are issued again by the actual repair
            open_dense(source.model, network, images, Request())
    except SecateursError:
        return False
    except Exception:  # noqa: BLE001 - a user's model may raise anything without its targets
        return False
    return True
