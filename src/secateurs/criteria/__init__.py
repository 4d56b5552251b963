"""Criteria that rank channels. Importing this package registers all of them."""

from secateurs.calibration.ablation import Ablation
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import (
    ActivationStatistics,
    CalibrationStatistics,
    ChannelIndex,
    Gates,
    Gram,
)
from secateurs.criteria import (
    ablation,
    activations,
    control,
    gradients,
    redundancy,
    similarity,
    weights,
)
from secateurs.criteria.ablation import critical_channels
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.redundancy import redundant
from secateurs.criteria.registry import (
    AUTO,
    CRITERIA,
    Criterion,
    check_known,
    criterion,
    find,
)
from secateurs.criteria.scoring import Scores, collect_statistics, score, score_many

__all__ = [
    # one family of criteria a module
    "ablation",
    "activations",
    "control",
    "gradients",
    "redundancy",
    "similarity",
    "weights",
    # the registry
    "AUTO",
    "CRITERIA",
    "Criterion",
    "Need",
    "check_known",
    "criterion",
    "find",
    # scoring
    "GroupData",
    "Scores",
    "collect_statistics",
    "score",
    "score_many",
    # selections
    "critical_channels",
    "redundant",
    # statistics of calibration data
    "Ablation",
    "Gates",
    "CalibrationStatistics",
    "Gram",
    "ChannelIndex",
    "ActivationStatistics",
]
