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
from secateurs.criteria.registry import (
    AUTO,
    CRITERIA,
    Criterion,
    Need,
    check_known,
    criterion,
    find,
)
from secateurs.criteria.score import Scores, gather, score, score_many
from secateurs.criteria.tournament import Standing, Tournament, tournament

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
    "AUTO",
    "CRITERIA",
    "Criterion",
    "Need",
    "check_known",
    "criterion",
    "find",
    # scoring
    "Facts",
    "Scores",
    "gather",
    "score",
    "score_many",
    # letting them compete
    "Standing",
    "Tournament",
    "tournament",
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
