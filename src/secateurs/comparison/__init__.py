"""Strategies held against each other: the same models, amounts, images and training for all."""

from secateurs.comparison.entry import compare
from secateurs.comparison.executors import Alone, Cluster, Crew, Order, Processes, by_name
from secateurs.comparison.job_runner import Contest, Dense, Outcome, Pruner
from secateurs.comparison.results import Results
from secateurs.comparison.runner import Onlooker, carry_out, write
from secateurs.comparison.settings import Comparison, Job, parsed
from secateurs.comparison.store import Ledger

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
