"""Script: a study in several processes, each of which writes its weights."""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState

import secateurs as sec
from secateurs import models
from support import killed


def study(directory):
    """Two rounds of a model without batch normalisation, which would see parts of batches."""
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # the main process's weights are the ones
    model = models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 8), hidden=10)
    return sec.iterate(
        model,
        killed.examples(80, 1),
        killed.examples(31, 2),
        killed.examples(30, 3),
        step=0.2,
        criterion="l2",
        training=killed.TRAINING.model_copy(update={"batch_size": 15}),
        stop=sec.Stop(rounds=2, tolerance=0.3),
        rewind="weights",
        directory=directory,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    result = study(place / "study")
    state = PartialState()
    sec.save(result.model, place / f"process-{state.process_index}-of-{state.num_processes}")
