"""Secateurs for Keras 3 models, on TensorFlow, JAX and PyTorch."""

from secateurs.keras.apply import apply, delete_channels
from secateurs.keras.callbacks import Progress, PruneOnSchedule
from secateurs.keras.edit import delete_layer, insert_layer, replace_layer
from secateurs.keras.record import load, save
from secateurs.keras.rules.registry import rule
from secateurs.keras.trace import trace
from secateurs.keras.tracer import Call, Place, Tracer
from secateurs.keras.train import Learner, training_of

__all__ = [
    # as for PyTorch
    "apply",
    "delete_channels",
    "load",
    "save",
    "trace",
    # training
    "Learner",
    "Progress",
    "PruneOnSchedule",
    "training_of",
    # whole layers
    "delete_layer",
    "insert_layer",
    "replace_layer",
    # rules of one's own
    "Call",
    "Place",
    "Tracer",
    "rule",
]
