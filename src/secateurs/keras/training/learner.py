"""Training Keras models for the loop, all of it with ``model.fit``.

Where the user has set a ``keras.distribution`` (several devices, on JAX), ``fit`` spreads every
batch over them; nothing here has to know. What ``compile`` was told can be kept: with
``Training(optimizer="compiled")``, which is what ``secateurs.iterate`` takes for a compiled model,
retraining goes on with the model's own optimizer, loss and learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from secateurs.calibration.outputs import Output, divergence
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, cut_of, keep_report_, report_of
from secateurs.errors import CheckpointError, DataError, ModelError
from secateurs.files import sealed, unpack_safetensors
from secateurs.keras.cutting import apply
from secateurs.keras.internals import (
    compiled_with,
    device,
    graph_of,
    seed_,
    sync_,
    undisturbed_backend,
)
from secateurs.keras.model.example_inputs import check_model
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.statistics.loss import (
    LEAST,
    as_classes,
    gives_probabilities,
    tells_two_apart,
)
from secateurs.keras.surgery.compiling import same_optimizer
from secateurs.keras.surgery.rebuilding import cut_copy, finalize_, undisturbed
from secateurs.keras.trace_model import trace
from secateurs.keras.training.distillation import KERAS
from secateurs.measurement import speed
from secateurs.settings.training import Training
from secateurs.training.feed import (
    EVALUATION_BATCH,
    Augmentation,
    Batch,
    Feed,
    FirstBatches,
    as_feed,
    check_labels,
    consecutive,
)
from secateurs.training.learner import Evaluation, Part, Snapshot

_DROPOUT = 5


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
    said = set() if given is None else given.model_fields_set
    if given is not None and ("optimizer" in said or not model.compiled):
        return given
    if not model.compiled or model.optimizer is None:
        raise ModelError(
            f"{model.name}: expected a compiled model, to be retrained as it was trained; received "
            f"one that is not compiled. Call {model.name}.compile(optimizer, loss), or say how to "
            "train: training=sec.Training(optimizer='adamw', learning_rate=1e-3)"
        )
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    own = Training(optimizer="compiled", learning_rate=rate, schedule="constant", warm_up=0.0)
    if given is None:
        return own
    _check_for_compiled(model, said)
    names = ("optimizer", "learning_rate", "schedule", "warm_up")
    return given.model_copy(update={n: getattr(own, n) for n in names if n not in said})


def _check_for_compiled(model: keras.Model, said: Collection[str]) -> None:
    """What the model's own optimizer and loss say cannot be said once more."""
    for name in ("momentum", "weight_decay", "label_smoothing"):
        if name in said:
            raise ModelError(
                f"{model.name}: expected training without {name}: a compiled model is retrained "
                f"with its own {type(model.optimizer).__name__} and loss, which have theirs. Set "
                f"it there, or name another optimizer: sec.Training(optimizer='sgd', {name}=...)"
            )


class Learner:
    """A Keras model in training; see ``secateurs.training.learner.Learner``."""

    def __init__(
        self, model: keras.Model, train: Any, validation: Any, test: Any, training: Training
    ) -> None:
        """A copy of a model, and what to train it on.

        Args:
            model: the dense model; unchanged.
            train: a Split, a pair (images, labels), or an iterable of such pairs.
            validation: the same.
            test: the same, or None.
            training: how to train.

        Raises:
            DataError: the data are empty, of one class, or nothing of the kind.
            ModelError: weights hold NaN or infinity, the model gives no scores of classes, or is
                to be trained as compiled and is not.
        """
        self._origin = check_model(model)
        self._training = training
        _check_trainable(self._origin, training)
        self._two = tells_two_apart(model)
        self._classes = 2 if self._two else _classes_of(model)
        self._probabilities = gives_probabilities(model)
        self._feeds: dict[str, Feed] = {}
        self._turned: dict[str, bool] = {}
        larger = max(EVALUATION_BATCH, training.batch_size)
        self._take_data("train", train, training.batch_size)
        self._take_data("validation", validation, larger)
        if test is not None:
            self._take_data("test", test, larger)
        self._example = self._first_images("train", 1)
        self._dense: Any = None
        self._model = cut_copy(model, Cut())
        if cut_of(model):  # it goes on from there
            keep_report_(self._model, CutReport(cut_of(model)))
        if training.optimizer != "compiled":
            self._compile_(self._model)

    @property
    def model(self) -> Any:
        """The model as it is now."""
        return self._model

    @property
    def cut(self) -> Cut:
        """What has gone since the dense model."""
        return cut_of(self._model)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts: there is one process."""
        return True

    @property
    def batches_an_epoch(self) -> int:
        """Batches in which every training image is seen once."""
        return len(self._feeds["train"])

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return "test" in self._feeds

    def agree(self, decide: Callable[[], str]) -> str:
        """What ``decide`` returns: there is one process."""
        return decide()

    def wait(self) -> None:
        """There is nobody to wait for."""

    def trace(self) -> Network:
        """The network of the model as it is now, for one image."""
        return trace(self._model, self._example)

    def calibration(self, batches: int) -> Iterable[tuple[NDArray[np.generic], NDArray[np.int64]]]:
        """Training batches (images, labels), as they are; can be gone through again."""
        return FirstBatches(
            self._feeds["train"], batches, lambda batch: self.images("train", batch)
        )

    # -- training

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train on batches number ``first`` and on, one for each learning rate; their mean loss."""
        batches = consecutive(self._feeds["train"], first, len(rates))
        random = np.random.default_rng([_DROPOUT, self._training.seed, first])
        with undisturbed_backend():
            history = self._model.fit(
                self._examples(batches),
                steps_per_epoch=len(rates),
                epochs=1,
                shuffle=False,  # the feed has done it
                verbose=0,
                callbacks=[_Rates(rates, tick, random)],
            )
        return float(history.history["loss"][0])

    def _examples(self, batches: Iterable[Batch]) -> Iterator[tuple[Any, Any]]:
        one_hot = self._training.optimizer == "compiled" and _takes_one_hot(self._model)
        for batch in batches:
            labels = self._checked_labels(batch)
            images = self.images("train", batch)
            if self._dense is not None:
                yield images, self._with_outputs(labels, images)
            elif self._two:
                yield images, labels.astype(np.float32)[:, None]
            elif one_hot:
                yield images, np.eye(self._classes)[labels]
            else:
                yield images, labels

    def _with_outputs(
        self, labels: NDArray[np.int64], images: NDArray[np.generic]
    ) -> NDArray[np.float32]:
        """Labels in the first column, beside them the dense model's outputs."""
        wanted = np.asarray(self._dense.predict_on_batch(images), np.float32)
        return np.concatenate([labels[:, None].astype(np.float32), wanted], axis=1)

    def follow(self, dense: Snapshot) -> None:
        """From now on, train towards this model's outputs as ``training.distillation`` says."""
        self._dense = self._build(dense)
        self._model.compile(self._model.optimizer, self._loss())

    def _compile_(self, model: keras.Model) -> None:
        """Compile as the training says; a model trained as it was compiled is so already."""
        model.compile(_optimizer(self._training), self._loss())

    def _loss(self) -> Callable[[Any, Any], Any]:
        loss = _loss(self._training, self._probabilities, self._two)
        if self._dense is None:
            return loss
        return _distilled(loss, self._training, self._probabilities)

    # -- evaluation

    def batches_of(self, part: Part) -> int:
        """Batches in which a split is evaluated."""
        return self._feeds[part].whole_length

    def evaluate(self, part: Part, tick: Callable[[], None]) -> Evaluation:
        """How well the model does on all images of a split."""
        correct, loss, count = 0, 0.0, 0
        for batch in self._feeds[part].in_order():
            labels = self._checked_labels(batch)
            scores = np.asarray(
                self._model.predict_on_batch(self.images(part, batch)), dtype=np.float64
            )
            if self._two:
                other = 1 - scores if self._probabilities else np.zeros_like(scores)
                scores = np.concatenate([other, scores], axis=1)
            correct += int((scores.argmax(axis=1) == labels).sum())
            loss -= float(self._logs(scores)[np.arange(len(labels)), labels].sum())
            count += len(labels)
            tick()
        return Evaluation(correct / count, loss / count)

    def _logs(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._probabilities:
            logs: NDArray[np.float64] = np.log(np.maximum(scores, LEAST))
            return logs
        shifted = scores - scores.max(axis=1, keepdims=True)
        normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return normal

    def speed(self, dense: Snapshot) -> speed.SpeedComparison:
        """Images a second of the model and of the dense one, measured in turns."""
        images = self._first_images("validation", self._training.batch_size)
        return speed.compare_speed(
            _runner(self._model, images),
            _runner(self._build(dense), images),
            len(images),
            f"{keras.backend.backend()}, {device()}",
        )

    def release(self) -> Any:
        """The model, compiled as the user's was; the learner is of no more use."""
        if self._training.optimizer == "compiled":
            return self._model
        whole = cut_copy(self._origin, self.cut.since(cut_of(self._origin)))
        _fill_(whole, self.snapshot().tensors)
        keep_report_(whole, CutReport(self.cut))
        return whole

    # -- cutting and keeping

    def apply(self, cut: Cut, network: Network | None = None) -> CutReport:
        """Make a cut, the optimizer's state sliced along; proven where the network is given."""
        self._model = apply(
            self._model, cut, self._example, network=network, proof=network is not None
        )
        return report_of(self._model)

    def repair(self, network: Network, cut: Cut, images: Any) -> None:
        """Fit the weights that a cut left to what the network's model gave before it."""
        from secateurs.reconstruction.pruner import repair_after_

        repair_after_(network, self._model, cut, images, self._training.seed)

    def snapshot(self) -> Snapshot:
        """A copy of the model's and the optimizer's values."""
        return Snapshot(
            {leaf.name: np.array(leaf.array()) for leaf in list_tensors(self._model)},
            self.cut,
            {
                str(number): np.array(keras.ops.convert_to_numpy(variable.value))
                for number, variable in enumerate(self._model.optimizer.variables)
            },
            {"optimizer": type(self._model.optimizer).__name__},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Make the model, and where it was kept the optimizer, what they were."""
        self._model = self._build(snapshot)

    def _build(self, snapshot: Snapshot) -> Any:
        # The model that training began with may have been cut before: its own cut comes first.
        model = cut_copy(self._origin, snapshot.cut.since(cut_of(self._origin)))
        _fill_(model, snapshot.tensors)
        if snapshot.cut:
            keep_report_(model, CutReport(snapshot.cut))
        if self._training.optimizer != "compiled":
            self._compile_(model)
        else:
            settings = compiled_with(model)
            model.compile(**{**settings, "optimizer": same_optimizer(self._origin.optimizer)})
        if snapshot.settings is not None:
            _fill_optimizer_(model, snapshot)
        return model

    def pack(self, tensors: Mapping[str, Any], said: Mapping[str, str]) -> bytes:
        """Tensors and text as the content of a safetensors file."""
        arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
        return sealed(save_tensors(arrays, dict(said)))

    def unpack(self, content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
        """What ``pack`` was given."""
        return unpack_safetensors(content, load_tensors)

    # -- data

    def images(self, part: str, batch: Batch) -> NDArray[np.generic]:
        """A batch's images, with their channels where the model has them."""
        turned = self._turned[part]
        return np.ascontiguousarray(np.moveaxis(batch.images, 1, -1)) if turned else batch.images

    def feed(self, part: str) -> Feed:
        """The batches of a split."""
        return self._feeds[part]

    def _take_data(self, part: str, source: Any, batch_size: int) -> None:
        """Splits of ours have channels first; augmentation counts on it, so arrays are turned."""
        training = self._training
        changes = (training.flip, training.shift) if part == "train" else ()
        wanted = tuple(graph_of(self._origin).inputs[0].shape[1:])
        last = len(wanted) == 3 and _channels_last(wanted, source)
        if last and isinstance(source, tuple) and len(source) == 2:
            source = (np.moveaxis(np.asarray(source[0]), -1, 1), source[1])
        source = _with_classes(source, self._classes)
        augmentation = Augmentation(*changes)
        self._feeds[part] = as_feed(source, batch_size, training.seed, augmentation, part)
        self._turned[part] = last
        _check_fits(self._origin, part, wanted, self._first_images(part, 1).shape[1:])

    def _first_images(self, part: str, count: int) -> NDArray[np.generic]:
        batch = next(self._feeds[part].in_order())
        return np.ascontiguousarray(self.images(part, batch)[:count])

    def _checked_labels(self, batch: Batch) -> NDArray[np.int64]:
        check_labels(batch.labels, self._classes)
        return batch.labels


def _with_classes(source: Any, classes: int) -> Any:
    """Data whose labels are numbers of classes, where they come as rows with a single one."""
    if isinstance(source, tuple) and len(source) == 2:
        labels = as_classes(np.asarray(source[1]), classes, (None,))
        return source[0], _refuse_rows(labels, classes)
    if hasattr(source, "batch") or not isinstance(source, Iterable):
        return source
    if isinstance(source, (str, bytes, Iterator)):
        return source
    return _Relabelled(source, classes)


def _refuse_rows(labels: NDArray[np.generic] | None, classes: int) -> NDArray[np.generic]:
    labels = np.asarray(labels)
    if labels.ndim == 2:
        raise DataError(
            f"expected labels from 0 to {classes - 1}, one an image, or rows of {classes} with a "
            f"single 1; received shape {labels.shape}. Pass labels.argmax(axis=1), or train with "
            "fit, between cuts by secateurs.prune."
        )
    return labels


class _Relabelled:
    """A loader whose labels come as rows."""

    def __init__(self, source: Iterable[Any], classes: int) -> None:
        self._source, self._classes = source, classes

    def __iter__(self) -> Iterator[Any]:
        for item in self._source:
            if isinstance(item, (tuple, list)) and len(item) == 2:
                labels = as_classes(np.asarray(item[1]), self._classes, (None,))
                yield item[0], _refuse_rows(labels, self._classes)
            else:
                yield item

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]


class _Rates(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the seed and each batch's learning rate, and counts batches."""

    def __init__(
        self, rates: Sequence[float], tick: Callable[[], None], random: np.random.Generator
    ) -> None:
        super().__init__()
        self._rates = rates
        self._random = random
        self._tick = tick
        self._set: float | None = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        del logs
        # Not before: the first fit of a model draws numbers while it finds out about shapes.
        seed_(self.model, self._random)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        del logs
        rate = self._rates[batch]
        optimizer = self.model.optimizer
        if rate == self._set or not hasattr(optimizer._learning_rate, "assign"):
            return  # a schedule of the user's own goes on by itself
        if self._set is not None:
            sync_(self.model)
        optimizer.learning_rate = self._set = rate

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        del batch, logs
        self._tick()


def _optimizer(training: Training) -> Any:
    """Keras's own; its weight decay is apart from the gradient, in SGD too."""
    rate, decay = training.learning_rate, training.weight_decay or None
    if training.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=training.weight_decay)
    momentum = training.momentum
    return keras.optimizers.SGD(rate, momentum, nesterov=momentum > 0, weight_decay=decay)


def _loss(training: Training, probabilities: bool, two: bool = False) -> Callable[[Any, Any], Any]:
    smoothing = training.label_smoothing
    if two:
        plain: Callable[[Any, Any], Any] = keras.losses.BinaryCrossentropy(
            from_logits=not probabilities, label_smoothing=smoothing
        )
        return plain

    def cross_entropy(labels: Any, scores: Any) -> Any:
        labels = keras.ops.reshape(labels, (-1,))
        wanted = keras.ops.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
        return keras.losses.categorical_crossentropy(
            wanted, scores, from_logits=not probabilities, label_smoothing=smoothing
        )

    return cross_entropy


def _distilled(
    loss: Callable[[Any, Any], Any], training: Training, probabilities: bool
) -> Callable[[Any, Any], Any]:
    """(labels beside the dense model's outputs, scores) -> one loss for each image."""
    share, classes = training.distillation, Output("categorical", probabilities=probabilities)

    def mixed(targets: Any, scores: Any) -> Any:
        labels, wanted = keras.ops.cast(targets[:, 0], "int32"), targets[:, 1:]
        apart = divergence(KERAS, classes, wanted, scores, training.temperature)
        return (1 - share) * loss(labels, scores) + share * apart

    return mixed


def _takes_one_hot(model: keras.Model) -> bool:
    """Whether the loss the model was compiled with wants a row for each label."""
    loss = model.loss
    said = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    plain = str(said).lower().replace("_", "")
    return "categorical" in plain and "sparse" not in plain


def _channels_last(wanted: tuple[int | None, ...], source: Any) -> bool:
    """Whether images come with channels first (as our splits), or can, and the model's are last."""
    if hasattr(source, "batch") and hasattr(source, "labels"):
        given = source.batch(slice(0, 1))[0].shape[1:]
        return not _fits(wanted, given) and _fits(wanted, (*given[1:], given[0]))
    if not (isinstance(source, tuple) and len(source) == 2):
        return False  # a loader gives images as the model takes them
    images = np.asarray(source[0])
    return images.ndim == 4 and keras.config.image_data_format() == "channels_last"


def _fits(wanted: Sequence[int | None], given: Sequence[int]) -> bool:
    return len(wanted) == len(given) and all(
        want in (None, have) for want, have in zip(wanted, given, strict=True)
    )


def _check_fits(
    model: keras.Model, part: str, wanted: Sequence[int | None], given: Sequence[int]
) -> None:
    if not _fits(wanted, given):
        raise DataError(
            f"{part}: expected images of shape {tuple(wanted)}, as {model.name} takes; received "
            f"{tuple(given)}"
        )


def _check_trainable(model: keras.Model, training: Training) -> None:
    if training.optimizer == "compiled" and training.distillation:
        raise ModelError(
            f"{model.name}: expected distillation=0 where a model is trained by the loss it was "
            f"compiled with; received distillation={training.distillation}. Say how to train: "
            "training=sec.Training(optimizer='adamw', learning_rate=1e-3, distillation="
            f"{training.distillation})"
        )
    if training.optimizer == "compiled":
        default_training(model)
    if training.precision == "bf16":
        raise ModelError(
            f"{model.name}: expected precision 'auto' or 'fp32': a Keras model has its precision "
            "built in; received 'bf16'. Build it under keras.config.set_dtype_policy("
            "'mixed_bfloat16')."
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


def _classes_of(model: keras.Model) -> int:
    graph = graph_of(model)
    shapes = [tuple(tensor.shape) for tensor in graph.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] == 1:
        raise ModelError(
            f"{model.name}: expected scores of classes; received a model that gives one number, "
            "neither out of a sigmoid nor compiled with 'binary_crossentropy'. Let it end in "
            "Dense(1, activation='sigmoid'), or train it with fit, between cuts by secateurs.prune."
        )
    if len(graph.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2:
        raise ModelError(
            f"{model.name}: expected a model of one input that gives scores of shape (images, "
            f"classes); received {len(graph.inputs)} inputs and outputs of shape "
            f"{', '.join(map(str, shapes))}. Train it with fit, between cuts by secateurs.prune."
        )
    return int(shapes[0][1])


def _fill_(model: keras.Model, tensors: Mapping[str, Any]) -> None:
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


def _fill_optimizer_(model: keras.Model, snapshot: Snapshot) -> None:
    optimizer = model.optimizer
    if not optimizer.built and len(snapshot.optimizer) > len(optimizer.variables):
        with undisturbed():
            optimizer.build(model.trainable_variables)
    for number, variable in enumerate(optimizer.variables):
        value = snapshot.optimizer.get(str(number))
        if value is None:  # it was not kept: the optimizer begins anew
            continue
        if tuple(value.shape) != tuple(variable.shape):
            raise CheckpointError(
                f"expected the state of this {type(optimizer).__name__}, {variable.name} of shape "
                f"{tuple(variable.shape)}; received shape {tuple(value.shape)}"
            )
        variable.assign(np.array(value))


def _runner(model: keras.Model, images: NDArray[np.generic]) -> Callable[[], object]:
    return lambda: model.predict_on_batch(images)
