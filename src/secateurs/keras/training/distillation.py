"""Label-free distillation of Keras models, on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Operations, Output, read_outputs, sum_divergences
from secateurs.channels.cut import Cut
from secateurs.channels.proof import keep_report_, report_of
from secateurs.errors import ModelError
from secateurs.keras.internals import Layer, Variable, gradient_of
from secateurs.keras.memory import activation_memory
from secateurs.keras.model.example_inputs import as_arrays, check_model
from secateurs.keras.model.layer_tree import named_own_variables
from secateurs.keras.model.tensors import layers_by_path, list_tensors, present_values
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.activation_sites import run
from secateurs.keras.surgery.rebuilding import cut_copy, finalize_
from secateurs.keras.tracing.interpreter import (
    CallSite,
    OpInterpreter,
    RunStep,
    as_it_is,
    convert_arrays,
    first_tensor,
)
from secateurs.training.distillation import (
    TEMPERATURE,
    DistillationJudge,
    Distilled,
    Effort,
    ImageChange,
    Rates,
    SeenAs,
    Values,
    lesson_of,
    train,
)
from secateurs.training.feed import Augmentation
from secateurs.training.hints import Hint, find_hints, hint_distances, spread, teach
from secateurs.training.muon import Muon

_LONGEST_STEP = 1.0
"""Norm to which gradients are clipped."""


def distil(
    small: keras.Model,
    dense: keras.Model,
    images: Sequence[CalibrationBatch],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    held_out: Sequence[CalibrationBatch],
    seed: int = 0,
    outputs: str | Sequence[str] | None = None,
    augmentation: Augmentation | ImageChange | None = None,
    temperature: float = TEMPERATURE,
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> Distilled:
    """Train a copy of a small model towards the dense model's outputs; no labels are used.

    Both models run in inference mode: statistics of batch normalisation are fixed, and dropout is
    off. Variables with ``trainable=False`` are kept, unless all variables have it.

    Args:
        small: model to train a copy of; unchanged.
        dense: model to follow; unchanged.
        images: training images.
        steps: number of optimizer steps; 300 if ``seconds`` is not given either.
        seconds: time limit in seconds, without the last evaluation.
        held_out: images used for evaluation only. The trained copy is returned if it is closer to
            the dense model on them (at this temperature, and also augmented like the others).
        seed: seed of the order and the augmentation.
        outputs: kind of the dense model's outputs: "categorical", "bernoulli", "relative" (squared
            error relative to their variance) or "embedding" (cosine); one for all outputs or one
            for each. None infers it from their values.
        augmentation: augmentation of the images, or a function (images, random) -> images.
        temperature: softening of the distributions over classes and of probabilities.
        learning_rate: peak learning rate of Muon (kernels of dense layers and convolutions) and
            Adam (the rest), Muon's for weights of the usual size; None finds them by trial.
        batch_size: images per step; None takes 128, or as many as 4 GB are enough for.

    Raises:
        DataError: there are no images, or the augmentation does not fit them.
        UnknownNameError: there is no such kind of outputs.
        ModelError: the small model has no variable that can be trained.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015. For the
    hints of inner layers see ``secateurs.training.hints``; for the optimizer, ``muon``.
    """
    effort = Effort(steps, seconds)
    small, dense = check_model(small), check_model(dense)
    first = keras.config.image_data_format() == "channels_first"
    lesson = lesson_of(
        images, augmentation, batch_size=batch_size, seed=seed, channels_last=not first
    )
    seen = SeenAs(outputs, channels_first=first, temperature=temperature)
    judge = DistillationJudge.of(_outputs, dense, held_out, seen, lesson)
    lesson = lesson if batch_size else lesson.that_fits(partial(activation_memory, small), judge)
    layers = [name for name, _ in _mixing(small)]
    hints = find_hints(_run_with_inputs, small, dense, lesson.images[0], layers, lesson.size)
    enrol = partial(KerasStudent, outputs=judge.outputs, temperature=temperature, hints=hints)
    lessons = partial(teach, _run_with_inputs, dense, hints)
    return train(enrol, small, lessons, judge, lesson, effort, learning_rate)


def distances(
    outputs: Sequence[Output],
    wanted: Sequence[BackendTensor | NDArray[np.generic]],
    given: Sequence[BackendTensor],
    temperature: float,
) -> BackendTensor:
    """Distances of a model's outputs from the dense model's, image by image, shape (N,)."""
    theirs, mine = (
        [keras.ops.cast(keras.ops.convert_to_tensor(one), "float32") for one in values]
        for values in (wanted, given)
    )
    found: BackendTensor = sum_divergences(KERAS, outputs, theirs, mine, temperature)
    return found


class Teacher:
    """A dense model whose outputs another model learns to match, beside its task.

    The kinds of its outputs are inferred once, from those for the first batch.

    Args:
        model: dense model, run in inference mode; never trained.
        temperature: softening of the distributions over classes and of probabilities.
    """

    def __init__(self, model: keras.Model, temperature: float) -> None:
        self._model, self._temperature = model, temperature
        self._outputs: tuple[Output, ...] | None = None

    def answers(self, inputs: object) -> list[NDArray[np.floating]]:
        """Return the model's floating-point outputs."""
        found = [
            np.asarray(one) for one in keras.tree.flatten(self._model.predict_on_batch(inputs))
        ]
        answers = [one for one in found if one.dtype.kind == "f"]
        if self._outputs is None:
            first = keras.config.image_data_format() == "channels_first"
            self._outputs = read_outputs(answers, None, channels_first=first)
        return answers

    def distances(self, wanted: Sequence[BackendTensor], given: object) -> BackendTensor:
        """Distances of a model's outputs from the teacher's, image by image, shape (N,)."""
        mine = [
            one
            for one in keras.tree.flatten(given)
            if keras.backend.is_float_dtype(keras.backend.standardize_dtype(one.dtype))
        ]
        if self._outputs is None:
            raise RuntimeError("distances need the outputs of an earlier call")
        return distances(self._outputs, wanted, mine, self._temperature)


class KerasStudent:
    """A copy of a model in training; see ``secateurs.training.distillation.Student``.

    It is not trained with ``fit``, which runs batch normalisation on the statistics of each batch.
    """

    def __init__(
        self,
        small: keras.Model,
        outputs: Sequence[Output],
        temperature: float,
        hints: Sequence[Hint] = (),
    ) -> None:
        self._outputs = outputs
        self._temperature = temperature
        self._hints = hints
        self._model = cut_copy(small, Cut())
        keep_report_(self._model, report_of(small))
        self._variables = [variable for variable, _ in present_values(self._model).values()]
        self._learning = _variables_to_train(self._model)
        self._start = [_as_array(variable.value) for variable in self._learning]
        matrices = {id(variable) for variable in _matrices(self._model)}
        self._muons = {
            number: Muon(self._start[number].reshape(-1, variable.shape[-1]).T)
            for number, variable in enumerate(self._learning)
            if id(variable) in matrices
        }
        self._adam = keras.optimizers.Adam()
        self._slopes = gradient_of(self._loss)

    def step(self, images: object, wanted: Values, rates: Rates) -> bool:
        """Take one step towards these outputs; return whether the gradients were finite."""
        values = [variable.value for variable in self._variables]
        weights = [keras.ops.stop_gradient(variable.value) for variable in self._learning]
        slopes = self._slopes(weights, as_arrays(images, self._model), wanted, values)
        length = math.sqrt(sum(float(np.square(slope, dtype=np.float64).sum()) for slope in slopes))
        if not math.isfinite(length):
            return False
        shorter = min(1.0, _LONGEST_STEP / (length + 1e-6))
        rest = [number for number in range(len(slopes)) if number not in self._muons]
        self._adam.learning_rate = rates.adam
        self._adam.apply(
            [keras.ops.convert_to_tensor(slopes[number] * shorter) for number in rest],
            [self._learning[number] for number in rest],
        )
        for number, muon in self._muons.items():
            slope, variable = slopes[number] * shorter, self._learning[number]
            # Keras keeps inputs before outputs: (height, width, inputs, outputs).
            direction = muon.direction(slope.reshape(-1, slope.shape[-1]).T).T.reshape(slope.shape)
            step = keras.ops.convert_to_tensor(np.asarray(rates.muon * direction, slope.dtype))
            variable.assign_sub(keras.ops.cast(step, variable.dtype))
        return True

    def finish(self, share: float = 1.0) -> keras.Model:
        """Return the copy, compiled like the small model, with weights interpolated from the start.

        ``share`` is 0 for the initial weights and 1 for the trained ones.
        """
        if share == 1:
            finalize_(self._model)
            return self._model
        between = cut_copy(self._model, Cut())
        keep_report_(between, report_of(self._model))
        variables = _variables_to_train(between)
        for variable, learnt, start in zip(variables, self._learning, self._start, strict=True):
            variable.assign(start + share * (_as_array(learnt.value) - start))
        finalize_(between)
        return between

    def _loss(
        self,
        weights: Sequence[BackendTensor],
        arrays: Sequence[NDArray[np.generic]],
        wanted: Values,
        values: Sequence[BackendTensor],
    ) -> BackendTensor:
        """Mean distance of the outputs from the dense model's, plus that of the hints."""
        learned = {
            id(variable): value for variable, value in zip(self._learning, weights, strict=True)
        }
        mixed = [
            learned.get(id(variable), value)
            for variable, value in zip(self._variables, values, strict=True)
        ]
        inputs = _Inputs([hint.layer for hint in self._hints])
        given = _floating(run(self._model, inputs.call, self._variables, mixed, arrays))
        end = len(given)
        found = distances(self._outputs, wanted[:end], given, self._temperature)
        read = inputs.of_one_call()
        inside = [_map_input(hint, read[hint.layer]) for hint in self._hints]
        theirs = [keras.ops.convert_to_tensor(array) for array in wanted[end:]]
        loss: BackendTensor = keras.ops.mean(
            found + hint_distances(KERAS, self._hints, theirs, inside)
        )
        return loss


class _Keras:
    """Operations of a divergence, implemented with ``keras.ops``."""

    log_softmax = staticmethod(keras.ops.log_softmax)
    log_sigmoid = staticmethod(keras.ops.log_sigmoid)
    exp = staticmethod(keras.ops.exp)
    log = staticmethod(keras.ops.log)
    clip = staticmethod(keras.ops.clip)

    def sum(self, x: BackendTensor, axes: tuple[int, ...]) -> BackendTensor:
        return keras.ops.sum(x, axis=axes) if axes else x


KERAS: Operations = _Keras()


class _Inputs:
    """Step function that records the inputs of layers, in the layout of ``spread``."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = frozenset(layers)
        self._inputs: dict[str, list[BackendTensor]] = {}

    def call(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        """Run a call unchanged."""
        layer = site.operation
        if site.path in self._layers and isinstance(layer, _MIXING):
            read = first_tensor(arguments, keywords)
            if len(read.shape) > 1:
                first = getattr(layer, "data_format", None) == "channels_first"
                last = keras.ops.moveaxis(read, 1, -1) if first else read
                self._inputs.setdefault(site.path, []).append(spread(last, keras.ops.reshape))
        return as_it_is(site, arguments, keywords)

    def of_one_call(self) -> dict[str, BackendTensor]:
        """Map each layer to its input, in execution order, without layers called more than once."""
        return {path: calls[0] for path, calls in self._inputs.items() if len(calls) == 1}


def _run_with_inputs(
    model: keras.Model, images: object, layers: Sequence[str]
) -> tuple[Values, dict[str, NDArray[np.float32]]]:
    """Run a model in inference mode; return (outputs, inputs of these layers by path)."""
    inputs = _Inputs(layers)
    outputs = _run(model, images, inputs.call)
    return outputs, {path: _as_array(read) for path, read in inputs.of_one_call().items()}


def _map_input(hint: Hint, read: BackendTensor) -> BackendTensor:
    """Map the input of a layer in the small model to that of the layer in the dense model."""
    weight, bias = (keras.ops.convert_to_tensor(array) for array in (hint.weight, hint.bias))
    mapped: BackendTensor = keras.ops.matmul(keras.ops.cast(read, "float32"), weight) + bias
    return mapped


def _outputs(model: keras.Model, images: object) -> Values:
    return _run(model, images, as_it_is)


def _run(model: keras.Model, images: object, step: RunStep) -> Values:
    given = OpInterpreter(step).run(model, convert_arrays(model, as_arrays(images, model)))
    return [_as_array(tensor) for tensor in _floating(given)]


def _floating(outputs: Sequence[BackendTensor]) -> list[BackendTensor]:
    found = [tensor for tensor in outputs if keras.backend.is_float_dtype(tensor.dtype)]
    if not found:
        raise ModelError(
            "distil: expected a model that gives floating-point outputs; received none"
        )
    return found


def _as_array(tensor: BackendTensor) -> NDArray[np.float32]:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


_MIXING = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def _mixing(model: keras.Model) -> Iterator[tuple[str, Layer]]:
    """Dense layers, and convolutions of one group, by path."""
    for path, layer in layers_by_path(model):
        if isinstance(layer, _MIXING) and getattr(layer, "groups", 1) == 1:
            yield path, layer


def _matrices(model: keras.Model) -> Iterator[Variable]:
    """Kernels of the layers that ``_mixing`` lists."""
    for _, layer in _mixing(model):
        for name, variable, _ in named_own_variables(layer):
            if name == "kernel":
                yield variable


def _variables_to_train(model: keras.Model) -> list[Variable]:
    """Return the trainable floating-point variables; all of them if none is trainable."""
    floating = [
        leaf.variable
        for leaf in list_tensors(model)
        if leaf.is_parameter and keras.backend.is_float_dtype(leaf.variable.dtype)
    ]
    chosen = [variable for variable in floating if variable.trainable] or floating
    if not chosen:
        raise ModelError(
            f"distil: {model.name}: expected floating-point weights to train; received none"
        )
    return chosen
