"""Retraining of compiled models with the settings they were compiled with."""

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
    """Return how to retrain a model: as it was compiled, at its current learning rate.

    Args:
        model: model to train.
        given: requested settings. Settings it does not name are those of the compiled model; the
            model's own optimizer is replaced only if it names one.

    Raises:
        ModelError: nothing was requested and the model is not compiled, or a requested setting
            belongs to another optimizer than the model's.
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
    """Refuse settings that the model's own optimizer and loss already have."""
    for name in ("momentum", "weight_decay", "label_smoothing"):
        if name in named:
            raise ModelError(
                f"{model.name}: expected training without {name}: a compiled model is retrained "
                f"with its own {type(model.optimizer).__name__} and loss, which have theirs. Set "
                f"it there, or name another optimizer: sec.Training(optimizer='sgd', {name}=...)"
            )


def check_compiled(model: keras.Model, training: Training) -> None:
    """Refuse to train a model as it was compiled where that is not possible.

    Raises:
        ModelError: it is not compiled, or averaging of its weights is requested.
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
        ModelError: distillation is requested, which that loss does not include.
    """
    if training.distillation:
        raise ModelError(
            f"{model.name}: expected distillation=0 where a model is trained by the loss it was "
            f"compiled with; received distillation={training.distillation}. Say how to train: "
            "training=sec.Training(optimizer='adamw', learning_rate=1e-3, distillation="
            f"{training.distillation})"
        )


def recompile_(model: keras.Model, origin: keras.Model) -> None:
    """Recompile a copy with a new optimizer that has the current settings of the original's."""
    settings = compile_arguments_of(model)
    fresh = same_optimizer(origin.optimizer)
    exclude_from_decay_(fresh, variables_without_decay(model.optimizer, model.variables))
    model.compile(**{**settings, "optimizer": fresh})


def takes_one_hot(model: keras.Model) -> bool:
    """Return whether the loss the model was compiled with takes one-hot labels."""
    loss = model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    plain = str(name).lower().replace("_", "")
    return "sparse" not in plain and any(kind in plain for kind in _ONE_HOT_LOSSES)


_ONE_HOT_LOSSES = (
    *("categorical", "binary", "hinge", "divergence", "squared", "absolute", "logarithmic"),
    *("huber", "logcosh", "poisson", "dice", "tversky", "cosine", "mse", "mae", "kld"),
)
"""Parts of the names of Keras losses that compare a value for each class."""
