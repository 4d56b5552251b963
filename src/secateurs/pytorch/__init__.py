"""Secateurs for PyTorch models."""

from secateurs.pytorch.apply import apply, delete_channels
from secateurs.pytorch.record import load, save
from secateurs.pytorch.surgery import cut_optimizer
from secateurs.pytorch.trace import trace
from secateurs.pytorch.train import Learner

__all__ = ["Learner", "apply", "cut_optimizer", "delete_channels", "load", "save", "trace"]
