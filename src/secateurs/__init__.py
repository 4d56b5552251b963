"""Secateurs makes trained neural networks smaller and faster, and proves each cut."""

from secateurs.api import Pruned, ablate, apply, delete_channels, iterate, load, prune, save, trace
from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cut
from secateurs.channels.evidence import CutReport, Proof
from secateurs.channels.network import Group, Network
from secateurs.comparison import compare
from secateurs.configuration import Pruning, Stop, Training
from secateurs.criteria import (
    Ablation,
    Scores,
    Tournament,
    critical_channels,
    redundant,
    score,
    score_many,
    tournament,
)
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
from secateurs.history import History
from secateurs.loop import Watcher
from secateurs.plan import Budget, plan
from secateurs.sensitivity import Sensitivity, sensitivity
from secateurs.study import Iterated, Study

__all__ = [
    # what can be done
    "ablate",
    "apply",
    "compare",
    "critical_channels",
    "delete_channels",
    "iterate",
    "load",
    "plan",
    "prune",
    "redundant",
    "save",
    "score",
    "score_many",
    "sensitivity",
    "tournament",
    "trace",
    # what it is done with
    "Ablation",
    "Budget",
    "Cost",
    "Cut",
    "CutReport",
    "Group",
    "History",
    "Iterated",
    "Network",
    "Proof",
    "Pruned",
    "Pruning",
    "Scores",
    "Sensitivity",
    "Stop",
    "Study",
    "Tournament",
    "Training",
    "Watcher",
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
