"""Ways to rank channels. Importing this package registers every criterion."""

from secateurs.criteria import weights
from secateurs.criteria.facts import Facts
from secateurs.criteria.registry import CRITERIA, Criterion, Need, criterion, find
from secateurs.criteria.score import Scores, score

__all__ = [
    "CRITERIA",
    "Criterion",
    "Facts",
    "Need",
    "Scores",
    "criterion",
    "find",
    "score",
    "weights",
]
