"""Ways to rank channels. Importing this package registers every criterion."""

from secateurs.criteria import (
    ablation,
    activations,
    chance,
    gradients,
    redundancy,
    relations,
    weights,
)
from secateurs.criteria.ablation import critical_channels
from secateurs.criteria.ablations import Ablation
from secateurs.criteria.facts import Facts
from secateurs.criteria.gathered import Gates, Gathered, Gram, Part, Reading
from secateurs.criteria.redundancy import redundant
from secateurs.criteria.registry import CRITERIA, Criterion, Need, criterion, find
from secateurs.criteria.score import Scores, gather, score, score_many

__all__ = [
    # one family of criteria a module
    "ablation",
    "activations",
    "chance",
    "gradients",
    "redundancy",
    "relations",
    "weights",
    # the list of them
    "CRITERIA",
    "Criterion",
    "Need",
    "criterion",
    "find",
    # scoring
    "Facts",
    "Scores",
    "gather",
    "score",
    "score_many",
    # selections
    "critical_channels",
    "redundant",
    # what calibration data say
    "Ablation",
    "Gates",
    "Gathered",
    "Gram",
    "Part",
    "Reading",
]
