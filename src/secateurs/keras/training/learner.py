"""Train Keras models in the loop, with ``model.fit``.

If the user has set a ``keras.distribution`` (several devices, on JAX), ``fit`` distributes every
batch over the devices without further code here. With ``Training(optimizer="compiled")``, the
default of ``secateurs.iterate`` for a compiled model, retraining uses the model's own optimizer,
loss and learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from secateurs.backends import Loss, Outputs
from secateurs.calibration.examples import length_of
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, cut_of, keep_report_, report_of
from secateurs.errors import CheckpointError, ModelError
from secateurs.files import seal, unpack_safetensors
from secateurs.keras.cutting import apply
from secateurs.keras.internals import device
from secateurs.keras.model.example_inputs import check_model
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.surgery.rebuilding import cut_copy, finalize_
from secateurs.keras.trace_model import trace
from secateurs.keras.training.batches import feed_of, first_images
from secateurs.keras.training.compilation import (
    check_compiled,
    check_own_loss,
    recompile_,
    takes_one_hot,
)
from secateurs.keras.training.fitting import fit
from secateurs.keras.training.losses import (
    ClassScores,
    beside_outputs,
    cross_entropy,
    distillation_loss,
)
from secateurs.keras.training.optimizers import (
    average_put,
    begin_average_,
    make_optimizer,
    optimizer_values,
    restore_optimizer_,
)
from secateurs.measurement import speed
from secateurs.settings.training import Training
from secateurs.training.feed import (
    EVALUATION_BATCH,
    Augmentation,
    Batch,
    Feed,
    check_labels,
    consecutive,
)
from secateurs.training.feed_learner import FeedLearner, rebuild
from secateurs.training.learner import DataPart, Evaluation, Snapshot
from secateurs.training.metric import Metric


class Learner(FeedLearner[keras.Model]):
    """A Keras model in training; see ``secateurs.training.learner.Learner``."""

    def __init__(
        self,
        model: keras.Model,
        train: object,
        validation: object,
        test: object,
        training: Training,
        outputs: Outputs | None = None,
    ) -> None:
        """Copy the model and prepare its data.

        Args:
            model: dense model; unchanged.
            train: a Split, a pair (images, labels), or an iterable of such pairs.
            validation: the same for validation.
            test: the same for the test, or None.
            training: training settings.
            outputs: must be None. Use ``keras.Model`` to make a model with fewer outputs.

        Raises:
            DataError: the data are empty, have a single class, or are of an unknown kind.
            ModelError: weights hold NaN or infinity, the model does not give class scores, or it is
                to be trained as compiled and is not compiled.
        """
        self._origin = check_model(model)
        self._training = training
        self._outputs = outputs
        _check_trainable(self._origin, training)
        self._check_distillation(training)
        self._prepare_to_read(model)
        changes, none = Augmentation(training.flip, training.shift), Augmentation()
        self._train_feed = self._feed(train, "train", training.batch_size, changes)
        larger = max(EVALUATION_BATCH, training.batch_size)
        self._feeds: dict[DataPart, Feed] = {
            "validation": self._feed(validation, "validation", larger, none)
        }
        if test is not None:
            self._feeds["test"] = self._feed(test, "test", larger, none)
        self._example = self._first_inputs("train", 1)
        self._dense: keras.Model | None = None
        self._is_cut_anew = False
        self._model = cut_copy(model, Cut())
        if cut_of(model):  # further cuts are added to it
            keep_report_(self._model, CutReport(cut_of(model)))
        if self._trains_as_compiled:
            self._set_objective_(self._model)
        else:
            self._compile_(self._model)

    def _prepare_to_read(self, model: keras.Model) -> None:
        """Find out how the model's outputs score classes."""
        self._scores = ClassScores.of(model)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts: there is one process."""
        return True

    @property
    def peers(self) -> Peers:
        """This process alone."""
        return ALONE

    @property
    def metric(self) -> Metric:
        """The metric: accuracy."""
        return Metric()

    @property
    def loss(self) -> Loss | None:
        """None, which stands for cross-entropy."""
        return None

    def agree(self, decide: Callable[[], str]) -> str:
        """Return the result of ``decide``; there is one process."""
        return decide()

    def wait(self) -> None:
        """Do nothing: there is one process."""

    def trace(self) -> Network:
        """Trace the model in its present state, for one image."""
        return trace(self._model, self._example, outputs=self._outputs)

    # -- training

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train on one batch per learning rate, from number ``first``; return the mean loss."""
        self._begin_average_after_cut_()
        self._is_cut_anew = False
        examples = self._examples(consecutive(self._train_feed, first, len(rates)))
        return fit(self._model, examples, rates, tick, [self._training.seed, first])

    def _begin_average_after_cut_(self) -> None:
        """Restart the average from the present weights, if there was a cut and no training since.

        Not in ``apply``, because a repair may change the weights after it.
        """
        if self._is_cut_anew:
            begin_average_(self._model)

    def _examples(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
        """Iterate over (images, targets), with targets in the form the loss takes."""
        one_hot = self._trains_as_compiled and takes_one_hot(self._model)
        for batch in batches:
            images, labels = batch.images, batch.labels
            check_labels(labels, self._scores.classes)
            if self._dense is not None:
                yield images, beside_outputs(labels, self._dense.predict_on_batch(images))
            elif self._scores.two:
                yield images, labels.astype(np.float32)[:, None]
            elif one_hot:
                yield images, np.eye(self._scores.classes)[labels]
            else:
                yield images, labels

    def follow(self, dense: Snapshot) -> None:
        """Distil from this model from now on, as ``training.distillation`` specifies."""
        self._dense = self._build(dense)
        loss = distillation_loss(self._training, self._scores)
        self._model.compile(self._model.optimizer, loss)

    @property
    def _trains_as_compiled(self) -> bool:
        return self._training.optimizer == "compiled"

    def _check_distillation(self, training: Training) -> None:
        """Refuse distillation with the loss the model was compiled with, which excludes it."""
        if training.optimizer == "compiled":
            check_own_loss(self._origin, training)

    def _set_objective_(self, model: keras.Model) -> None:
        """Hook to replace the compiled loss of a model; here it is kept."""

    def _first_inputs(self, part: Literal["train", "validation"], count: int) -> object:
        """The inputs of the first examples, as the model takes them."""
        feed = self._train_feed if part == "train" else self._feeds["validation"]
        return first_images(feed, count)

    def _compile_(self, model: keras.Model) -> None:
        """Compile the model with the optimizer and loss of the training settings."""
        make_loss = cross_entropy if self._dense is None else distillation_loss
        model.compile(make_optimizer(self._training), make_loss(self._training, self._scores))

    # -- evaluation

    def evaluate(
        self, part: DataPart, tick: Callable[[], None], averaged: bool = False
    ) -> Evaluation:
        """Evaluate the model, or the average of its weights, on all examples of a split."""
        if not averaged:
            return self._evaluate(part, tick)
        self._begin_average_after_cut_()
        with average_put(self._model):
            return self._evaluate(part, tick)

    def _evaluate(self, part: DataPart, tick: Callable[[], None]) -> Evaluation:
        correct, loss, count = 0, 0.0, 0
        for batch in self._feeds[part].in_order():
            check_labels(batch.labels, self._scores.classes)
            scores = np.asarray(self._model.predict_on_batch(batch.images), np.float64)
            more_correct, more_loss = self._scores.judge(scores, batch.labels)
            correct, loss = correct + more_correct, loss + more_loss
            count += len(batch.labels)
            tick()
        return Evaluation(correct / count, loss / count)

    def speed(self, dense: Snapshot) -> speed.SpeedComparison:
        """Images per second of the model and of the dense one, measured alternately."""
        images = self._first_inputs("validation", self._training.batch_size)
        return speed.compare_speed(
            _runner(self._model, images),
            _runner(self._build(dense), images),
            length_of(images),
            f"{keras.backend.backend()}, {device()}",
        )

    def release(self) -> keras.Model:
        """Return the model, compiled like the user's; the learner must not be used afterwards."""
        if self._trains_as_compiled:
            return self._model
        return rebuild(self._origin, self.snapshot(), cut_copy, _fill_)

    # -- cutting and keeping

    def apply(self, cut: Cut, network: Network | None = None) -> CutReport:
        """Make a cut and slice the optimizer's state likewise; proven if the network is given."""
        self._model = apply(
            self._model, cut, self._example, network=network, proof=network is not None
        )
        self._set_objective_(self._model)
        self._is_cut_anew = True
        return report_of(self._model)

    def snapshot(self) -> Snapshot:
        """A copy of the model's and the optimizer's values, and of their moving average."""
        self._begin_average_after_cut_()  # a restored model is no longer one that was just cut
        values = self._values()
        average: dict[str, NDArray[np.generic]] = {}
        if self._training.ema:
            with average_put(self._model):
                average = self._values()
        state = optimizer_values(self._model.optimizer)
        return Snapshot(values, self.cut, *state, average)

    def _values(self) -> dict[str, NDArray[np.generic]]:
        return {leaf.name: np.array(leaf.array()) for leaf in list_tensors(self._model)}

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the model and, if the snapshot has it, the optimizer."""
        self._model = self._build(snapshot)
        self._is_cut_anew = False

    def _build(self, snapshot: Snapshot) -> keras.Model:
        model = rebuild(self._origin, snapshot, cut_copy, _fill_)
        if self._trains_as_compiled:
            recompile_(model, self._origin)
            self._set_objective_(model)
        else:
            self._compile_(model)
        if snapshot.settings is not None:
            restore_optimizer_(model, snapshot)
        return model

    def pack(self, tensors: Mapping[str, NDArray[np.generic]], text: Mapping[str, str]) -> bytes:
        """Tensors and text as the content of a safetensors file."""
        arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
        return seal(save_tensors(arrays, dict(text)))

    def unpack(self, content: bytes) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
        """The inverse of ``pack``: (tensors, text)."""
        return unpack_safetensors(content, load_tensors)

    def _feed(
        self,
        source: object,
        part: str,
        batch_size: int,
        augmentation: Augmentation,
    ) -> Feed:
        classes, seed = self._scores.classes, self._training.seed
        return feed_of(self._origin, source, batch_size, classes, part, seed, augmentation)


def _check_trainable(model: keras.Model, training: Training) -> None:
    """Refuse settings and models that Keras cannot train."""
    if training.optimizer == "compiled":
        check_compiled(model, training)
    if training.precision == "bf16":
        raise ModelError(
            f"{model.name}: expected precision 'auto' or 'fp32': a Keras model has its precision "
            "built in; received 'bf16'. Build it under keras.config.set_dtype_policy("
            "'mixed_bfloat16')."
        )
    if training.accumulation_steps > 1:
        raise ModelError(
            f"{model.name}: expected accumulation_steps of 1: a Keras optimizer accumulates by "
            f"itself; received {training.accumulation_steps}. Compile the model with "
            "gradient_accumulation_steps of its optimizer, and train with optimizer='compiled'."
        )
    if not model.trainable_variables:
        raise ModelError(
            f"{model.name}: expected weights that can be trained; all of them are frozen "
            "(trainable=False)"
        )
    for leaf in list_tensors(model):
        values = leaf.array()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ModelError(
                f"{model.name}: expected finite weights; {leaf.name} holds NaN or infinity. Load "
                "a sound checkpoint."
            )


def _fill_(model: keras.Model, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    for leaf in list_tensors(model):
        known = tensors.get(leaf.name)
        if known is None or tuple(known.shape) != leaf.shape:
            received = "none" if known is None else f"shape {tuple(known.shape)}"
            raise CheckpointError(
                f"expected the tensors of this {model.name}, {leaf.name} of shape {leaf.shape}; "
                f"received {received}"
            )
        leaf.variable.assign(np.array(known))
    finalize_(model)


def _runner(model: keras.Model, images: object) -> Callable[[], object]:
    return lambda: model.predict_on_batch(images)
