"""Weight reconstruction for PyTorch models: normal-equation sums, weight copies and the walk."""

from secateurs.pytorch.reconstruction.dense_sums import contractions_of
from secateurs.pytorch.reconstruction.images import first_example, read_images
from secateurs.pytorch.reconstruction.lockstep import walk
from secateurs.pytorch.reconstruction.output_stream import (
    arrays,
    copy_of,
    copy_weights_,
    last_layers_of,
    outputs,
    reestimate_moments,
    skip_blocks,
    unlike_calibration,
    working_copy,
)
from secateurs.pytorch.reconstruction.trials import judge_trials
from secateurs.pytorch.reconstruction.without_images import repair_without_images_

__all__ = [
    "arrays",
    "contractions_of",
    "copy_of",
    "copy_weights_",
    "first_example",
    "judge_trials",
    "last_layers_of",
    "outputs",
    "read_images",
    "reestimate_moments",
    "repair_without_images_",
    "skip_blocks",
    "unlike_calibration",
    "walk",
    "working_copy",
]
