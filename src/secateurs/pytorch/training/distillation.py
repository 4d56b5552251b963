"""Label-free distillation of PyTorch models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Operations, Output, read_outputs, sum_divergences
from secateurs.channels.cut import Cut
from secateurs.errors import ModelError
from secateurs.pytorch.memory import activation_memory
from secateurs.pytorch.model.example_inputs import check_model, parse_example_inputs
from secateurs.pytorch.model.modes import evaluating
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.op_call import iterate_tensors
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
"""Maximum gradient norm; gradients are clipped to it."""


def distil(
    small: nn.Module,
    dense: nn.Module,
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

    Both models run in eval mode: batch-normalisation statistics do not change, and dropout is off.
    Frozen parameters (``requires_grad=False``) do not change, unless all are frozen.

    Args:
        small: the model to train a copy of; unchanged.
        dense: the model to follow; unchanged.
        images: training images.
        steps: number of optimizer steps; 300 where no seconds are given either.
        seconds: wall-clock time, without the last evaluation.
        held_out: images for evaluation only: the copy is kept if it is closer to the dense model on
            them (at this temperature, and also when they are augmented like the others).
        seed: seed of the order of images and of the augmentation.
        outputs: kind of the dense model's outputs: "categorical", "bernoulli", "relative" (by
            squared error, relative to their spread) or "embedding" (by cosine), of all outputs or
            of each; None infers it from their values.
        augmentation: augmentation of the images; or a function (images, random) -> images.
        temperature: softens distributions over classes and probabilities.
        learning_rate: peak learning rate of both Muon (weights of linear layers and convolutions)
            and Adam (the rest), Muon's for weights of the usual size; None finds them by trial.
        batch_size: number of images in a step; None takes 128, or as many as 4 GB are enough for.

    Raises:
        DataError: there are no images, or the augmentation does not fit them.
        UnknownNameError: there is no such kind of outputs.
        ModelError: the small model has no floating-point parameter, or has other outputs.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015; for the
    hints to layers inside, see ``secateurs.training.hints``, and for the optimizer, ``muon``.
    """
    effort = Effort(steps, seconds)
    small, dense = check_model(small), check_model(dense)
    lesson = lesson_of(images, augmentation, batch_size=batch_size, seed=seed)
    seen = SeenAs(outputs, channels_first=True, temperature=temperature)
    judge = DistillationJudge.of(_outputs, dense, held_out, seen, lesson)
    lesson = lesson if batch_size else lesson.that_fits(partial(activation_memory, small), judge)
    dense = _fast_copy(dense)
    layers = [name for name, _ in _mixing(small)]
    hints = find_hints(_run_with_inputs, small, dense, lesson.images[0], layers, lesson.size)
    enrol = partial(TorchStudent, outputs=judge.outputs, temperature=temperature, hints=hints)
    lessons = partial(teach, _run_with_inputs, dense, hints)
    return train(enrol, small, lessons, judge, lesson, effort, learning_rate)


def distances(
    outputs: Sequence[Output],
    wanted: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    temperature: float,
) -> torch.Tensor:
    """Distances of a model's outputs from the dense model's, image by image, shape (N,)."""
    mine = [tensor.float() for tensor in given]
    theirs = [tensor.float() for tensor in wanted]
    found: torch.Tensor = sum_divergences(TORCH, outputs, theirs, mine, temperature)
    return found


class Teacher:
    """A dense model whose outputs another model learns to match, beside its task.

    The kind of its outputs is read once, from the first batch.
    """

    def __init__(self, model: nn.Module, temperature: float, kind: str | None = None) -> None:
        """Prepare the teacher.

        Args:
            model: model on its device; switched to eval mode and frozen.
            temperature: softens distributions over classes and probabilities.
            kind: kind of its outputs; None infers it from their values.
        """
        self.model = model.eval().requires_grad_(False)
        self._temperature = temperature
        self._kind = kind
        self._outputs: tuple[Output, ...] | None = None

    def distances(self, wanted: object, given: object) -> torch.Tensor:
        """Distances of a model's outputs from the teacher's, image by image, shape (N,)."""
        theirs, mine = _by_example(wanted), _by_example(given)
        if self._outputs is None:
            arrays = [_as_array(tensor) for tensor in theirs]
            self._outputs = read_outputs(arrays, self._kind, channels_first=True)
        return distances(self._outputs, theirs, mine, self._temperature)


def _by_example(outputs: object) -> list[torch.Tensor]:
    """Outputs with a batch axis; a scalar loss among them is dropped."""
    return [tensor for tensor in _floating(outputs) if tensor.dim()]


class TorchStudent:
    """A float32 copy of a model in training; see ``secateurs.training.distillation.Student``."""

    def __init__(
        self,
        small: nn.Module,
        outputs: Sequence[Output],
        temperature: float,
        hints: Sequence[Hint] = (),
    ) -> None:
        self._small = small
        self._outputs = outputs
        self._temperature = temperature
        self._hints = hints
        self._model = cut_copy(small, Cut()).float().eval()
        _lay_channels_last_(self._model)
        self._learning = _parameters_to_train(self._model)
        learning = {id(one) for one in self._learning}
        self._matrices = [
            (one, Muon(one.detach().flatten(1)))
            for one in _matrices(self._model)
            if id(one) in learning
        ]
        taken = {id(one) for one, _ in self._matrices}
        rest = [one for one in self._learning if id(one) not in taken]
        self._adam = torch.optim.Adam(rest) if rest else None

    def step(self, images: object, wanted: Values, rates: Rates) -> bool:
        """Take one step towards these outputs; return whether the gradient was finite."""
        arguments, keywords = parse_example_inputs(images, self._model)
        # cuDNN's recurrent layers have no backward pass in eval mode; PyTorch's own have.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not _recurrent(self._model)):
            with _inputs_of(self._model, [hint.layer for hint in self._hints]) as inputs:
                given = _floating(self._model(*arguments, **keywords))
            given += [_through(hint, inputs[hint.layer]) for hint in self._hints]
            theirs = [_like(array, mine) for array, mine in zip(wanted, given, strict=True)]
            loss = self._distances(theirs, given).mean()
            self._model.zero_grad()
            loss.backward()
        length = nn.utils.clip_grad_norm_(self._learning, _LONGEST_STEP)
        if not bool(torch.isfinite(length)):
            return False
        if self._adam is not None:
            self._adam.param_groups[0]["lr"] = rates.adam
            self._adam.step()
        with torch.no_grad():
            for matrix, muon in self._matrices:
                if matrix.grad is not None:
                    way = muon.direction(matrix.grad.flatten(1))
                    matrix.sub_(way.unflatten(1, matrix.shape[1:]), alpha=rates.muon)
        return True

    def _distances(
        self, wanted: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        end = len(self._outputs)
        found = distances(self._outputs, wanted[:end], given[:end], self._temperature)
        inside: torch.Tensor = hint_distances(TORCH, self._hints, wanted[end:], given[end:])
        return found + inside

    def finish(self, share: float = 1.0) -> nn.Module:
        """A new small model with values a fraction ``share`` of the way to the learned ones.

        Dtypes, modes and frozen parameters are the small model's.
        """
        model = cut_copy(self._small, Cut())
        learnt = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if share == 1:
                    parameter.copy_(learnt[name])
                else:
                    parameter.lerp_(learnt[name].to(parameter.dtype), share)
        return model


class _Torch:
    """The operations of a divergence in PyTorch."""

    def log_softmax(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return F.log_softmax(x, dim=axis)

    def log_sigmoid(self, x: torch.Tensor) -> torch.Tensor:
        return F.logsigmoid(x)

    def exp(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x)

    def log(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x)

    def clip(self, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.clamp(x, low, high)

    def sum(self, x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        return torch.sum(x, dim=axes) if axes else x


TORCH: Operations = _Torch()


def _outputs(model: nn.Module, images: object) -> Values:
    arguments, keywords = parse_example_inputs(images, model)
    with evaluating(model), torch.inference_mode():
        return [_as_array(tensor) for tensor in _floating(model(*arguments, **keywords))]


def _fast_copy(dense: nn.Module) -> nn.Module:
    """A copy with the same outputs in less time, for models of images."""
    if not _has_images(dense):
        return dense
    twin = cut_copy(dense, Cut()).eval()
    _lay_channels_last_(twin)
    return twin


def _lay_channels_last_(model: nn.Module) -> None:
    """Convert to channels-last memory format, in which convolutions take less time."""
    if _has_images(model):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _has_images(model: nn.Module) -> bool:
    return any(parameter.dim() == 4 for parameter in model.parameters())


def _run_with_inputs(
    model: nn.Module, images: object, layers: Sequence[str]
) -> tuple[Values, dict[str, NDArray[np.float32]]]:
    """(outputs of a model in eval mode, layer -> its input)."""
    with _inputs_of(model, layers) as inputs:
        outputs = _outputs(model, images)
    return outputs, {layer: _as_array(tensor) for layer, tensor in inputs.items()}


@contextmanager
def _inputs_of(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Layer -> its input while the model runs, as ``spread`` returns it; for layers called once."""
    calls_of: dict[str, list[torch.Tensor]] = {}
    found: dict[str, torch.Tensor] = {}
    chosen = set(layers)

    def keep_input(name: str, module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given and given[0].dim() > 1:
            last = given[0] if isinstance(module, nn.Linear) else given[0].movedim(1, -1)
            calls_of.setdefault(name, []).append(spread(last))

    handles = [
        module.register_forward_pre_hook(partial(keep_input, name))
        for name, module in _mixing(model)
        if name in chosen
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        found.update({name: calls[0] for name, calls in calls_of.items() if len(calls) == 1})


def _through(hint: Hint, read: torch.Tensor) -> torch.Tensor:
    weight, bias = (_like(array, read) for array in (hint.weight, hint.bias))
    return read.float() @ weight + bias


def _floating(outputs: object) -> list[torch.Tensor]:
    found = [tensor for tensor in iterate_tensors(outputs) if tensor.is_floating_point()]
    if not found:
        raise ModelError(
            "distil: expected a model that gives floating-point outputs; received "
            f"{type(outputs).__name__} without any"
        )
    return found


def _as_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def _like(array: NDArray[np.generic], tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(tensor.device)


def _recurrent(model: nn.Module) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


_MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _mixing(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers, and convolutions of one group, by name."""
    for name, module in model.named_modules():
        if isinstance(module, _MIXING) and getattr(module, "groups", 1) == 1:
            yield name, module


def _matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of the layers that ``_mixing`` lists."""
    for _, module in _mixing(model):
        if isinstance(module.weight, nn.Parameter):
            yield module.weight


def _parameters_to_train(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters; all of them where the user has frozen all, as for inference."""
    floating = [one for one in model.parameters() if one.is_floating_point()]
    chosen = [one for one in floating if one.requires_grad] or floating
    if not chosen:
        raise ModelError(
            f"distil: {type(model).__name__}: expected floating-point parameters to train; "
            "received none"
        )
    for one in floating:
        one.requires_grad_(any(one is other for other in chosen))
    return chosen
