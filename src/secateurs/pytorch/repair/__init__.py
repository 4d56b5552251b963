"""Repair of PyTorch models: the sums, the copies of weights and the walk that solvers need."""

from secateurs.pytorch.repair.dense_sums import contractions_of
from secateurs.pytorch.repair.lockstep import walk
from secateurs.pytorch.repair.outputs import (
    copy_of,
    copy_weights_,
    outputs,
    reestimated,
    unlike_calibration,
    working_copy,
)
from secateurs.pytorch.repair.trials import judged_trials

__all__ = [
    "contractions_of",
    "copy_of",
    "copy_weights_",
    "judged_trials",
    "outputs",
    "reestimated",
    "unlike_calibration",
    "walk",
    "working_copy",
]
