"""Secateurs makes trained neural networks smaller and faster, and proves each cut."""

from secateurs.api import Pruned, apply, delete_channels, load, prune, save, trace
from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cut
from secateurs.channels.evidence import CutReport, Proof
from secateurs.channels.network import Group, Network
from secateurs.criteria import Scores, score
from secateurs.errors import (
    BudgetError,
    CheckpointError,
    CutError,
    DataError,
    ModelError,
    SecateursError,
    StudyError,
    UnknownNameError,
)
from secateurs.plan import Budget, plan

__all__ = [
    # what can be done
    "apply",
    "delete_channels",
    "load",
    "plan",
    "prune",
    "save",
    "score",
    "trace",
    # what it is done with
    "Budget",
    "Cost",
    "Cut",
    "CutReport",
    "Group",
    "Network",
    "Proof",
    "Pruned",
    "Scores",
    # what can go wrong
    "BudgetError",
    "CheckpointError",
    "CutError",
    "DataError",
    "ModelError",
    "SecateursError",
    "StudyError",
    "UnknownNameError",
]
