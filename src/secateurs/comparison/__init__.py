"""Comparison of strategies under equal conditions: models, amounts, images and training."""

from secateurs.comparison.entry import compare
from secateurs.comparison.executors import (
    Executor,
    ProcessExecutor,
    RayExecutor,
    SerialExecutor,
    WorkItem,
    learner_factory,
)
from secateurs.comparison.job_runner import DenseResult, JobRunner, Outcome, PrunerFunction
from secateurs.comparison.results import Results
from secateurs.comparison.runner import ComparisonCallback, run_comparison, write
from secateurs.comparison.settings import Comparison, Job, parse_job
from secateurs.comparison.store import ResultStore

__all__ = [
    # settings
    "Comparison",
    "Job",
    "parse_job",
    # execution
    "SerialExecutor",
    "RayExecutor",
    "JobRunner",
    "Executor",
    "WorkItem",
    "ProcessExecutor",
    "PrunerFunction",
    "learner_factory",
    "run_comparison",
    "compare",
    # results
    "DenseResult",
    "ResultStore",
    "ComparisonCallback",
    "Outcome",
    "Results",
    "write",
]
