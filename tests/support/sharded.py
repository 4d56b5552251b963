"""Script: studies in several processes that hold whole models (DDP), and that share them (FSDP).

``torchrun --nproc-per-node 2 -m support.sharded DIR`` writes what each process found to
``DIR/process-N.json``.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

import secateurs as sec
from secateurs import models
from secateurs.study.directory import Study
from support import killed

BY_SIZE = {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "60"}


class Scaled(nn.Module):
    """Batch normalisation, a scalar parameter, and one that is not trained."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.conv2 = nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last)
        self.head = nn.Linear(8, 3)
        self.head.bias.requires_grad_(False)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x))) * self.scale
        return self.head(torch.relu(self.conv2(x)).mean((2, 3)))


def cnn():
    return models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 8), hidden=10)


def study(directory, build, task=None, **training):
    """Two rounds; only the main process's weights are those to begin with."""
    torch.manual_seed(int(os.environ["RANK"]))
    result = sec.iterate(
        build(),
        killed.examples(80, 1),
        killed.examples(31, 2),
        killed.examples(30, 3),
        step=0.2,
        criterion="l2",
        training=killed.TRAINING.model_copy(update={"batch_size": 15, **training}),
        stop=sec.Stop(rounds=2, tolerance=0.9),
        measure_speed=False,
        directory=directory,
        task=task,
        repair=None if task is None else False,  # every round of the own step is to be trained
    )
    left = ("kind", "batch", "loss", "validation_loss", "accuracy", "params", "averaged")
    history = [{key: record.get(key) for key in left} for record in result.history]
    state = {name: tensor.tolist() for name, tensor in result.model.state_dict().items()}
    return {"history": history, "state": state}


class Shared:
    """Context in which processes share models, as ``accelerate launch --use_fsdp`` requests it."""

    def __init__(self, **policy):
        self.variables = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} | policy

    def __enter__(self):
        os.environ.update(self.variables)

    def __exit__(self, *_):
        for name in self.variables:
            del os.environ[name]


def task_of(held, last=None):
    """A task that counts the weights in this process before each step, and may be interrupted."""

    def step(model, batch):
        if len(held) == last:
            raise KeyboardInterrupt
        parameters = [p for p in model.parameters() if p.requires_grad]
        parts = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
        held.append(sum(part.numel() for part in parts))
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    return sec.LearningTask(train_step=step, metric="accuracy")


def main(place):
    cases = {
        "norm": (Scaled, {}, {"accumulation_steps": 8, "ema": 0.8, "weight_decay": 1e-3}),
        "size": (cnn, BY_SIZE, {"optimizer": "adamw", "learning_rate": 0.01, "distillation": 0.5}),
    }
    found = {}
    for name, (build, policy, training) in cases.items():
        whole = study(None, build, **training)
        with Shared(**policy):
            found[name] = {"whole": whole, "shared": study(None, build, **training)}
    held, training = [], {"optimizer": "adamw", "ema": 0.7}
    with Shared():
        found["step"] = study(None, cnn, task_of(held), **training)
        found["held"] = held
        with suppress(KeyboardInterrupt):
            study(place / "stopped", cnn, task_of([], 10), **training)
        PartialState().wait_for_everyone()  # the main process may be writing still
        found["resumed"] = study(place / "stopped", cnn, task_of([]), **training)
    rank = PartialState().process_index
    (place / f"process-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    Study.report = lambda self: None
    main(Path(sys.argv[1]))
    # Under load, PyTorch's threads abort one in several processes that use Gloo while Python ends.
    os._exit(0)
