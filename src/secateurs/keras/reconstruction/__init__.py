"""Weight reconstruction for Keras models: normal-equation sums, weight copies and the walk."""

from secateurs.keras.reconstruction.dense_sums import contractions_of
from secateurs.keras.reconstruction.lockstep import skip_blocks, walk
from secateurs.keras.reconstruction.output_stream import (
    arrays,
    copy_of,
    copy_weights_,
    first_example,
    last_layers_of,
    outputs,
    read_images,
    reestimate_moments,
    unlike_calibration,
    working_copy,
)
from secateurs.keras.reconstruction.trials import judge_trials
from secateurs.keras.reconstruction.without_images import repair_without_images_

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
