"""Predefined studies, by name."""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnknownNameError, nearest

PRESETS: dict[str, dict[str, Any]] = {
    # A ResNet-18 with through layers on handwritten digits: about two minutes on a CPU.
    "demo": {
        "model": "resnet18",
        "through": True,
        "data": "digits",
        "width": 8,
        "validation": 0.25,
        "train_batches": 600,
        "fine_tune_batches": 120,
        "batch_size": 64,
        "learning_rate": 0.1,
        "fine_tune_learning_rate": 0.05,
        "shift": 1,
        "step": 0.1,
        "rounds": 17,
        "patience": 4,
    },
    # The experiment of "Pruning ResNets for Fun and Profit", scaled to one CPU core. As there, each
    # round takes the lowest L1 norms of every layer and fine-tunes for a fifth of the batches that
    # trained the dense model.
    "vehicle-colours": {
        "model": "resnet18",
        "through": True,
        "data": "vehicles",
        "width": 16,
        "train_batches": 1090,
        "fine_tune_batches": 218,
        "evaluate_every": 109,
        "batch_size": 64,
        "learning_rate": 0.1,
        "fine_tune_learning_rate": 0.04,
        "train_precision": "bf16",
        "flip": True,
        "shift": 2,
        "scope": "group",
        "repair": False,
        "distillation": 0.0,
        "step": 0.05,
        "tolerance": 0,
        "rounds": 40,
        "patience": 8,
    },
    # The same on Fashion-MNIST.
    "fashion-mnist": {
        "model": "resnet18",
        "through": True,
        "data": "fashion-mnist",
        "width": 16,
        "stem": "small-stride2",
        "validation": 0.1,
        "train_batches": 1688,
        "fine_tune_batches": 422,
        "batch_size": 128,
        "learning_rate": 0.1,
        "train_precision": "bf16",
        "scope": "group",
        "repair": False,
        "distillation": 0.0,
        "step": 0.05,
        "tolerance": 0.005,
        "rounds": 26,
        "patience": 8,
    },
}


def preset(name: str) -> dict[str, Any]:
    """Options of a preset.

    Raises:
        UnknownNameError: there is no such preset.
    """
    try:
        return dict(PRESETS[name])
    except KeyError:
        raise UnknownNameError(f"no preset {name!r}{nearest(name, list(PRESETS))}") from None
