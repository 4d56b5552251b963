"""Prune trained neural networks structurally, and prove each cut."""

import logging as _logging
import typing as _typing
from importlib import import_module as _import_module
from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version
from importlib.util import find_spec as _find_spec

if _typing.TYPE_CHECKING:
    from secateurs.api import (
        Pruned,
        ablate,
        apply,
        delete_channels,
        frontier,
        iterate,
        load,
        prune,
        repair,
        save,
        score,
        trace,
    )
    from secateurs.channels.cost import Cost
    from secateurs.channels.cut import Cut
    from secateurs.channels.network import Group, Network
    from secateurs.channels.proof import CutReport, Proof, report_of
    from secateurs.comparison import compare
    from secateurs.criteria import (
        Ablation,
        Scores,
        critical_channels,
        redundant,
        score_many,
    )
    from secateurs.deployment.exporter import Exported, export
    from secateurs.errors import (
        BudgetError,
        CheckpointError,
        CutError,
        DataError,
        ExportError,
        MeasurementError,
        ModelError,
        SecateursError,
        StudyError,
        UnknownNameError,
    )
    from secateurs.measurement.benchmarks import Benchmark, bench
    from secateurs.measurement.latency_model import LatencyModel
    from secateurs.planning.auto_criterion import Tournament, tournament
    from secateurs.planning.budget import Budget
    from secateurs.planning.damage_curves import Sensitivity, sensitivity
    from secateurs.planning.planner import plan
    from secateurs.planning.profiling import profile
    from secateurs.reconstruction.pruner import Judging
    from secateurs.reconstruction.trade_off import Frontier
    from secateurs.settings.pruning import Pruning
    from secateurs.settings.study import Stop
    from secateurs.settings.training import Training
    from secateurs.study.directory import Study
    from secateurs.study.history import History
    from secateurs.study.run import Iterated
    from secateurs.training.callbacks import Watcher
    from secateurs.training.feed import Augmentation
    from secateurs.training.task import LearningTask

try:
    __version__ = _version("secateurs")
except _PackageNotFoundError:  # run from its sources
    __version__ = "0+unknown"

# A library logs nothing by default: users add their own handler to this logger.
_logging.getLogger(__name__).addHandler(_logging.NullHandler())

__all__ = [
    # functions
    "ablate",
    "apply",
    "bench",
    "compare",
    "critical_channels",
    "delete_channels",
    "export",
    "frontier",
    "iterate",
    "load",
    "plan",
    "profile",
    "prune",
    "redundant",
    "repair",
    "report_of",
    "save",
    "score",
    "score_many",
    "sensitivity",
    "tournament",
    "trace",
    # classes
    "Ablation",
    "Augmentation",
    "Benchmark",
    "Budget",
    "Cost",
    "Cut",
    "CutReport",
    "Exported",
    "Frontier",
    "Judging",
    "Group",
    "History",
    "Iterated",
    "LatencyModel",
    "LearningTask",
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
    # errors
    "BudgetError",
    "CheckpointError",
    "CutError",
    "DataError",
    "ExportError",
    "MeasurementError",
    "ModelError",
    "SecateursError",
    "StudyError",
    "UnknownNameError",
]

_MODULES = {
    "secateurs.api": (
        "Pruned",
        "ablate",
        "apply",
        "delete_channels",
        "frontier",
        "iterate",
        "load",
        "prune",
        "repair",
        "save",
        "score",
        "trace",
    ),
    "secateurs.channels.cost": ("Cost",),
    "secateurs.channels.cut": ("Cut",),
    "secateurs.channels.network": (
        "Group",
        "Network",
    ),
    "secateurs.channels.proof": (
        "CutReport",
        "Proof",
        "report_of",
    ),
    "secateurs.comparison": ("compare",),
    "secateurs.criteria": (
        "Ablation",
        "Scores",
        "critical_channels",
        "redundant",
        "score_many",
    ),
    "secateurs.deployment.exporter": (
        "Exported",
        "export",
    ),
    "secateurs.errors": (
        "BudgetError",
        "CheckpointError",
        "CutError",
        "DataError",
        "ExportError",
        "MeasurementError",
        "ModelError",
        "SecateursError",
        "StudyError",
        "UnknownNameError",
    ),
    "secateurs.measurement.benchmarks": (
        "Benchmark",
        "bench",
    ),
    "secateurs.measurement.latency_model": ("LatencyModel",),
    "secateurs.planning.auto_criterion": (
        "Tournament",
        "tournament",
    ),
    "secateurs.planning.budget": ("Budget",),
    "secateurs.planning.damage_curves": (
        "Sensitivity",
        "sensitivity",
    ),
    "secateurs.planning.planner": ("plan",),
    "secateurs.planning.profiling": ("profile",),
    "secateurs.reconstruction.pruner": ("Judging",),
    "secateurs.reconstruction.trade_off": ("Frontier",),
    "secateurs.settings.pruning": ("Pruning",),
    "secateurs.settings.study": ("Stop",),
    "secateurs.settings.training": ("Training",),
    "secateurs.study.directory": ("Study",),
    "secateurs.study.history": ("History",),
    "secateurs.study.run": ("Iterated",),
    "secateurs.training.callbacks": ("Watcher",),
    "secateurs.training.feed": ("Augmentation",),
    "secateurs.training.task": ("LearningTask",),
}
"""Module of each public name. Imported on first access, since NumPy and SciPy take a second."""

_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        value: object = getattr(_import_module(_PLACES[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and _find_spec(f"{__name__}.{name}") is not None:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
