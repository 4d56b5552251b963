"""Secateurs for Keras 3 models, on TensorFlow, JAX and PyTorch."""

from secateurs.keras.ablation.oracle import oracle
from secateurs.keras.cutting import apply, delete_channels
from secateurs.keras.saving import load, save
from secateurs.keras.statistics.collector import gather
from secateurs.keras.statistics.cut_evaluation import judged
from secateurs.keras.surgery.layers import delete_layer, insert_layer, replace_layer
from secateurs.keras.trace_model import trace
from secateurs.keras.tracing.rules.registry import rule
from secateurs.keras.tracing.tracer import Call, Place, Tracer
from secateurs.keras.training.callbacks import Progress, PruneOnSchedule
from secateurs.keras.training.distillation import distil
from secateurs.keras.training.learner import Learner, training_of

__all__ = [
    # as for PyTorch
    "apply",
    "delete_channels",
    "distil",
    "gather",
    "judged",
    "load",
    "oracle",
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
