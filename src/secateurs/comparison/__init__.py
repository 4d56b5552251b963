"""Strategies held against each other: the same models, amounts, images and training for all."""

from secateurs.comparison.carry_out import Onlooker, carry_out, write
from secateurs.comparison.compare import compare
from secateurs.comparison.contest import Contest, Dense, Outcome, Pruner
from secateurs.comparison.crews import Alone, Cluster, Crew, Order, Processes, by_name
from secateurs.comparison.ledger import Ledger
from secateurs.comparison.results import Results
from secateurs.comparison.settings import Comparison, Job, parsed

__all__ = [
    # what is asked for
    "Comparison",
    "Job",
    "parsed",
    # who does it
    "Alone",
    "Cluster",
    "Contest",
    "Crew",
    "Order",
    "Processes",
    "Pruner",
    "by_name",
    "carry_out",
    "compare",
    # what it comes to
    "Dense",
    "Ledger",
    "Onlooker",
    "Outcome",
    "Results",
    "write",
]
