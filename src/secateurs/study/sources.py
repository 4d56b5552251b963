"""Data of a study, and a description of tasks without a name."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from secateurs.channels.network import Network
from secateurs.settings.study import Task
from secateurs.training.learner import Learner


@dataclass(frozen=True, slots=True)
class Sources:
    """Data for training, validation and test; see ``secateurs.iterate``."""

    train: Any
    validation: Any
    test: Any = None


def describe_task(network: Network, learner: Learner, sources: Sources) -> Task:
    """Describe a model and data that have no name, so that studies can be told apart."""
    earlier = {"cut": _digest(learner.cut.to_json())} if learner.cut else {}
    shapes = sorted((tensor.name, tensor.shape) for tensor in network.tensors.values())
    return Task(
        model=network.name,
        model_options={
            "parameters": network.params(),
            "shapes": _digest(json.dumps(shapes)),
            **earlier,
        },
        data=type(sources.train).__name__,
        data_options={
            "batches": learner.batches_an_epoch,
            "validation_batches": learner.batches_of("validation"),
        },
    )


def _digest(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
