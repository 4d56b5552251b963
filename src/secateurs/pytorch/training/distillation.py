"""Label-free distillation of PyTorch models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Operations, Output, read_outputs, sum_divergences
from secateurs.channels.cut import Cut
from secateurs.errors import ModelError
from secateurs.pytorch.model.example_inputs import check_model, parse_example_inputs
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing.op_call import iterate_tensors
from secateurs.training.distillation import (
    BATCH,
    TEMPERATURE,
    DistillationJudge,
    Distilled,
    Effort,
    ImageChange,
    Rates,
    Values,
    lesson_of,
    train,
)
from secateurs.training.feed import Augmentation
from secateurs.training.muon import Muon

_LONGEST_STEP = 1.0
"""Norm to which gradients are clipped."""


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
    batch_size: int = BATCH,
) -> Distilled:
    """Train a copy of a small model towards the dense model's outputs; no labels are looked at.

    Both models run in inference mode: statistics of batch normalisation stay as they are, and
    nothing is dropped out. Parameters that are frozen (``requires_grad=False``) stay as they are,
    unless all are.

    Args:
        small: the model to train a copy of; unchanged.
        dense: the model to follow; unchanged.
        images: to learn from.
        steps: of the optimizer; 300 where no seconds are given either.
        seconds: of the clock, the last evaluation not included.
        held_out: images that only judge: the copy is kept if it is nearer to the dense model there.
        seed: of the order and the changes.
        outputs: what the dense model's outputs are: "categorical", "bernoulli", "relative" (by
            squared error, relative to their spread) or "embedding" (by cosine), of all outputs or
            of each; None reads it from their values.
        augmentation: what may be done to images; or a function (images, random) -> images.
        temperature: softens distributions over classes and probabilities.
        learning_rate: the highest, of Muon (weights of linear layers and convolutions) and of Adam
            (the rest) alike; None takes 0.003, and for Adam less where less is lost.
        batch_size: images a step.

    Raises:
        DataError: there are no images, or the augmentation does not go with them.
        UnknownNameError: no such kind of outputs.
        ModelError: the small model has no floating-point parameter, or gives other outputs.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015; of the
    optimizer, see ``secateurs.training.muon``.
    """
    effort = Effort(steps, seconds)
    small, dense = check_model(small), check_model(dense)
    judge = DistillationJudge.of(_outputs, dense, held_out, outputs, channels_first=True)
    lesson = lesson_of(images, augmentation, batch_size=batch_size, seed=seed)
    student = TorchStudent(small, judge.outputs, temperature)
    return train(student, small, dense, judge, lesson, effort, learning_rate)


def distances(
    outputs: Sequence[Output],
    wanted: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    temperature: float,
) -> torch.Tensor:
    """How far what a model gave is from what the dense one gave, image by image, shape (N,)."""
    mine = [tensor.float() for tensor in given]
    theirs = [tensor.float() for tensor in wanted]
    found: torch.Tensor = sum_divergences(TORCH, outputs, theirs, mine, temperature)
    return found


class Teacher:
    """A dense model that another is trained to answer like, beside its task.

    Its outputs are read once, from what it gives for the first batch.
    """

    def __init__(self, model: nn.Module, temperature: float, kind: str | None = None) -> None:
        """A teacher.

        Args:
            model: on its device; from now on in inference mode, and never trained.
            temperature: softens distributions over classes and probabilities.
            kind: of its outputs; None reads it from their values.
        """
        self.model = model.eval().requires_grad_(False)
        self._temperature = temperature
        self._kind = kind
        self._outputs: tuple[Output, ...] | None = None

    def distances(self, wanted: object, given: object) -> torch.Tensor:
        """How far a model's outputs are from the teacher's own, image by image, shape (N,)."""
        theirs, mine = _by_example(wanted), _by_example(given)
        if self._outputs is None:
            arrays = [_as_array(tensor) for tensor in theirs]
            self._outputs = read_outputs(arrays, self._kind, channels_first=True)
        return distances(self._outputs, theirs, mine, self._temperature)


def _by_example(outputs: object) -> list[torch.Tensor]:
    """Those that hold something of each example: a loss beside them does not."""
    return [tensor for tensor in _floating(outputs) if tensor.dim()]


class TorchStudent:
    """A float32 copy of a model in training; see ``secateurs.training.distillation.Student``."""

    def __init__(self, small: nn.Module, outputs: Sequence[Output], temperature: float) -> None:
        self._small = small
        self._outputs = outputs
        self._temperature = temperature
        self._model = cut_copy(small, Cut()).float().eval()
        if any(parameter.dim() == 4 for parameter in self._model.parameters()):
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._learning = _parameters_to_train(self._model)
        learning = {id(one) for one in self._learning}
        self._matrices = [(one, Muon()) for one in _matrices(self._model) if id(one) in learning]
        taken = {id(one) for one, _ in self._matrices}
        rest = [one for one in self._learning if id(one) not in taken]
        self._adam = torch.optim.Adam(rest) if rest else None

    def step(self, images: object, wanted: Values, rates: Rates) -> bool:
        """One step towards these outputs; whether it could be made."""
        arguments, keywords = parse_example_inputs(images, self._model)
        # Recurrent layers of cuDNN have no backward pass in inference mode; PyTorch's own have.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not _recurrent(self._model)):
            given = _floating(self._model(*arguments, **keywords))
            theirs = [_like(array, mine) for array, mine in zip(wanted, given, strict=True)]
            loss = distances(self._outputs, theirs, given, self._temperature).mean()
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

    def finish(self, share: float = 1.0) -> nn.Module:
        """The small model anew, so much of the way from its values to those learnt.

        Types, modes and frozen parameters are the small model's.
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


@contextmanager
def _inference_of(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _outputs(model: nn.Module, images: object) -> Values:
    arguments, keywords = parse_example_inputs(images, model)
    with _inference_of(model), torch.inference_mode():
        return [_as_array(tensor) for tensor in _floating(model(*arguments, **keywords))]


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


def _matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of linear layers and of convolutions that mix all their channels."""
    for module in model.modules():
        if isinstance(module, _MIXING) and getattr(module, "groups", 1) == 1:
            weight = module.weight
            if isinstance(weight, nn.Parameter):
                yield weight


def _parameters_to_train(model: nn.Module) -> list[nn.Parameter]:
    """Those that the user trains; all, where the user has frozen all, as for inference."""
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
