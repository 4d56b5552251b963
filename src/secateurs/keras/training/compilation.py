"""What a model was compiled with, where that says how it is to be retrained."""

from __future__ import annotations

from collections.abc import Collection

import keras

from secateurs.errors import ModelError
from secateurs.keras.internals import (
    compile_arguments_of,
    exclude_from_decay_,
    variables_without_decay,
)
from secateurs.keras.model.example_inputs import check_model
from secateurs.keras.surgery.compiling import same_optimizer
from secateurs.settings.training import Training


def default_training(model: keras.Model, given: Training | None = None) -> Training:
    """How to retrain a model: a compiled one as it was compiled, at the learning rate it has now.

    Args:
        model: whose training it is.
        given: what was asked for. What it does not name is as the model was compiled; only an
            optimizer that it names takes the place of the model's own.

    Raises:
        ModelError: nothing was asked for and the model is not compiled, or what was asked for is
            for another optimizer than the model's.
    """
    model = check_model(model)
    named = set() if given is None else given.model_fields_set
    if given is not None and ("optimizer" in named or not model.compiled):
        return given
    if not model.compiled or model.optimizer is None:
        raise ModelError(
            f"{model.name}: expected a compiled model, to be retrained as it was trained; received "
            f"one that is not compiled. Call {model.name}.compile(optimizer, loss), or say how to "
            "train: training=sec.Training(optimizer='adamw', learning_rate=1e-3)"
        )
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    compiled = Training(optimizer="compiled", learning_rate=rate, schedule="constant", warm_up=0.0)
    if given is None:
        return compiled
    _check_for_compiled(model, named)
    kept = {"optimizer", "learning_rate", "schedule", "warm_up"} - named
    return given.model_copy(update={name: getattr(compiled, name) for name in kept})


def _check_for_compiled(model: keras.Model, named: Collection[str]) -> None:
    """What the model's own optimizer and loss say cannot be said once more."""
    for name in ("momentum", "weight_decay", "label_smoothing"):
        if name in named:
            raise ModelError(
                f"{model.name}: expected training without {name}: a compiled model is retrained "
                f"with its own {type(model.optimizer).__name__} and loss, which have theirs. Set "
                f"it there, or name another optimizer: sec.Training(optimizer='sgd', {name}=...)"
            )


def check_compiled(model: keras.Model, training: Training) -> None:
    """Refuse to train a model as it was compiled where that cannot be.

    Raises:
        ModelError: it is not compiled, or its weights are to be averaged.
    """
    if training.ema:
        raise ModelError(
            f"{model.name}: expected ema=0 where a model is trained by the optimizer it was "
            f"compiled with; received ema={training.ema}. Name another: "
            f"training=sec.Training(optimizer='adamw', learning_rate=1e-3, ema={training.ema})"
        )
    default_training(model)


def check_own_loss(model: keras.Model, training: Training) -> None:
    """Refuse to distil a model that is trained by the loss it was compiled with.

    Raises:
        ModelError: it is to be distilled, which that loss knows nothing of.
    """
    if training.distillation:
        raise ModelError(
            f"{model.name}: expected distillation=0 where a model is trained by the loss it was "
            f"compiled with; received distillation={training.distillation}. Say how to train: "
            "training=sec.Training(optimizer='adamw', learning_rate=1e-3, distillation="
            f"{training.distillation})"
        )


def recompile_(model: keras.Model, origin: keras.Model) -> None:
    """Compile a copy as it is, with a new optimizer of the settings that the origin's has now."""
    settings = compile_arguments_of(model)
    fresh = same_optimizer(origin.optimizer)
    exclude_from_decay_(fresh, variables_without_decay(model.optimizer, model.variables))
    model.compile(**{**settings, "optimizer": fresh})


def takes_one_hot(model: keras.Model) -> bool:
    """Whether the loss the model was compiled with wants a row for each label."""
    loss = model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    plain = str(name).lower().replace("_", "")
    return "sparse" not in plain and any(kind in plain for kind in _OF_ROWS)


_OF_ROWS = (
    *("categorical", "binary", "hinge", "divergence", "squared", "absolute", "logarithmic"),
    *("huber", "logcosh", "poisson", "dice", "tversky", "cosine", "mse", "mae", "kld"),
)
"""What names of Keras's losses hold that compare a number for each class."""
