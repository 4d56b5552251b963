"""Figures and pages that show the results of pruning, drawn from a study's history alone."""

from secateurs.report.comparisons import (
    accuracy_against_removed,
    critical,
    critical_by_class,
    matrix,
    norm_histogram,
    sensitivity,
    trade_off,
)
from secateurs.report.figures import (
    accuracy_over_batches,
    images_per_second,
    relative_size,
    widths,
)
from secateurs.report.page import write
from secateurs.report.style import save
from secateurs.report.summary import Round, Summary, summarise

__all__ = [
    "Round",
    "Summary",
    "accuracy_against_removed",
    "accuracy_over_batches",
    "critical",
    "critical_by_class",
    "images_per_second",
    "matrix",
    "norm_histogram",
    "relative_size",
    "save",
    "sensitivity",
    "summarise",
    "trade_off",
    "widths",
    "write",
]
