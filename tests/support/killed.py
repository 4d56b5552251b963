"""Script: a study that is killed by SIGKILL at moments that it chooses itself.

``python -m support.killed DIR MOMENTS [OPTIMIZER]`` carries a small study out in ``DIR/whole``,
then again and again in ``DIR/killed-N``, each time killed before another of its steps (a batch, a
flush, a renaming, a removal), and going on until it is done. The optimizer is ``sgd``, ``adamw``,
or one of a Keras model: ``keras-sgd``, ``keras-adamw``. It prints a line of JSON for
each. Children are forked, so that PyTorch is imported once.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

import secateurs as sec
from secateurs import models
from secateurs.study.directory import Study

TRAINING = sec.Training(
    batches=12, fine_tune_batches=6, evaluate_every=4, batch_size=16, learning_rate=0.05, shift=1
)


class Counting(sec.Watcher):
    """Counts steps, and kills its own process before one of them."""

    def __init__(self, fatal):
        self.steps, self.fatal = 0, fatal
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, self.count_calls(getattr(os, name)))

    def count_calls(self, function):
        def call(*arguments, **options):
            self.tick()
            return function(*arguments, **options)

        return call

    def tick(self):
        self.steps += 1
        if self.steps == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def examples(count, seed):
    """Images that differ by class in where they are bright."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 3] += 1
    return images, labels


OPTIMIZER = sys.argv[3] if __name__ == "__main__" and len(sys.argv) > 3 else "sgd"


def dense():
    """The model that a study begins with; a Keras model has dropout too, which draws numbers."""
    if not OPTIMIZER.startswith("keras-"):
        torch.manual_seed(0)
        return models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 8), hidden=10)
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, padding="same", name="conv1")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, activation="relu", name="conv2")(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(10, activation="relu")(x)))


def data(count, seed):
    """Examples, as the framework's models take images."""
    images, labels = examples(count, seed)
    return (np.moveaxis(images, 1, -1) if OPTIMIZER.startswith("keras-") else images), labels


def study(directory, watcher=None):
    """Carry the study out, or what is left of it."""
    return sec.iterate(
        dense(),
        data(80, 1),
        data(30, 2),
        data(30, 3),
        step=0.2,
        training=TRAINING.model_copy(update={"optimizer": OPTIMIZER.removeprefix("keras-")}),
        stop=sec.Stop(rounds=3, tolerance=0.2),
        rewind="weights",
        measure_speed=False,
        directory=directory,
        watcher=watcher,
    )


def in_child(directory, fatal=None):
    """(how a child process that carries the study out ended, steps it took)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Drawing takes longer than the study.
        Study.report = lambda self: self.directory / "report.html"
        watcher = Counting(fatal)
        study(directory, watcher)
        os.write(writer, str(watcher.steps).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        steps = pipe.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return "killed" if killed else f"exit {os.waitstatus_to_exitcode(status)}", int(steps or 0)


def main(place, moments):
    torch.set_num_threads(1)
    study(None)  # imports and compiles what every child would
    ended, steps = in_child(place / "whole")
    say({"name": "whole", "ended": ended, "steps": steps})
    for number, fatal in enumerate(np.linspace(1, steps, moments, dtype=int).tolist()):
        directory = place / f"killed-{number}"
        first, _ = in_child(directory, fatal)
        # Killed once more, a few steps after it went on.
        second, _ = in_child(directory, 1 + number % 7)
        third, _ = in_child(directory)
        say({"name": directory.name, "fatal": fatal, "ended": [first, second, third]})


def say(values):
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
