"""Secateurs for PyTorch models."""

from secateurs.pytorch.ablation.oracle import ablate_channels
from secateurs.pytorch.cutting import apply, delete_channels
from secateurs.pytorch.saving import load, save
from secateurs.pytorch.statistics.collector import collect_statistics
from secateurs.pytorch.statistics.cut_evaluation import evaluate_cut
from secateurs.pytorch.surgery.slicing import cut_optimizer
from secateurs.pytorch.trace_model import trace
from secateurs.pytorch.training.learner import Learner, default_training

__all__ = [
    "Learner",
    "apply",
    "cut_optimizer",
    "delete_channels",
    "collect_statistics",
    "evaluate_cut",
    "load",
    "ablate_channels",
    "save",
    "trace",
    "default_training",
]
