"""Train PyTorch models in the loop, through Hugging Face Accelerate.

The same study runs on one CPU, on one GPU (in bf16), or in several processes that ``accelerate
launch`` starts. Each process takes its own part of every batch; gradients are those of the whole
batch, whatever the number of processes. Batch normalisation is the exception: a process normalises
by its own part.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import nn
from torch.nn import functional as F

from secateurs.backends import Loss, Outputs
from secateurs.calibration.examples import length_of
from secateurs.calibration.peers import Peers
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, cut_of, report_of
from secateurs.errors import CheckpointError, DataError, ModelError
from secateurs.files import checksum_of_tensors, unpack_safetensors
from secateurs.measurement import speed
from secateurs.pytorch.cutting import apply
from secateurs.pytorch.model.example_inputs import check_model
from secateurs.pytorch.model.outputs import names_of, select_used
from secateurs.pytorch.model.tensors import check_gradients_exist, check_values, list_tensors
from secateurs.pytorch.saving import check_state, to_bytes
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.trace_model import trace
from secateurs.pytorch.training.averaging import NamedTensors, update_average, values_put
from secateurs.pytorch.training.distillation import Teacher
from secateurs.pytorch.training.losses import check_scores, judge
from secateurs.pytorch.training.optimizers import (
    copy_to_cpu,
    make_optimizer,
    optimizer_values,
    restore_optimizer_,
)
from secateurs.pytorch.training.processes import Processes
from secateurs.pytorch.training.random_numbers import seed_generators
from secateurs.pytorch.training.readers import BatchReader, ImageReader, floating_dtype
from secateurs.pytorch.training.sharding import (
    ShardedOptimizer,
    ShardedTraining,
    explain_split_weights,
)
from secateurs.settings.training import Training
from secateurs.training.feed import (
    EVALUATION_BATCH,
    Batch,
    Feed,
    consecutive,
)
from secateurs.training.feed_learner import FeedLearner, rebuild
from secateurs.training.learner import DataPart, Evaluation, Snapshot
from secateurs.training.metric import Metric


class Learner(FeedLearner[nn.Module]):
    """A PyTorch model in training; see ``secateurs.training.learner.Learner``."""

    def __init__(
        self,
        model: nn.Module,
        train: object,
        validation: object,
        test: object,
        training: Training,
        outputs: Outputs | None = None,
    ) -> None:
        """Copy the model and prepare its data.

        Args:
            model: the dense model; unchanged.
            train: a Split, a pair (images, labels), or an iterable of such pairs (a DataLoader).
            validation: validation data; likewise.
            test: test data, likewise, or None.
            training: training settings.
            outputs: names of the model's outputs in use; None for all.

        Raises:
            DataError: the data are empty, have a single class, or are of an unsupported kind.
            ModelError: weights hold NaN or infinity, or the call is inside ``inference_mode``.
        """
        check_gradients_exist("training")
        model = self._origin = check_model(model)
        check_values(
            list_tensors(model), (), caller="training", otherwise="build the model on a device"
        )
        check_state(type(model).__name__, model.state_dict())
        _check_finite(model)
        self._training = training
        self._outputs = outputs
        self._processes = Processes(training)
        is_wide = floating_dtype(model) is torch.float64
        self._sum_dtype = torch.float64 if is_wide else torch.float32
        self._reader = self._make_reader()
        self._train_feed = self._reader.feed(train, "train", training.batch_size)
        larger = max(EVALUATION_BATCH, training.batch_size)
        self._feeds: dict[DataPart, Feed] = {
            "validation": self._reader.feed(validation, "validation", larger)
        }
        if test is not None:
            self._feeds["test"] = self._reader.feed(test, "test", larger)
        self._example: object = self._reader.read_first(self._train_feed, 1)
        self._teacher: Teacher | None = None
        self._average: NamedTensors = {}
        small = cut_copy(model, Cut())
        self._take(small, make_optimizer(small, training))

    _kind_of_outputs: str | None = "categorical"
    _prepared: nn.Module
    _prepared_optimizer: torch.optim.Optimizer | ShardedOptimizer

    def _make_reader(self) -> BatchReader:
        """The reader of this learner's kind of data."""
        return ImageReader(self._origin, self._training, self._processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts."""
        return self._processes.is_main

    @property
    def peers(self) -> Peers:
        """The processes, which share sums over calibration images."""
        return self._processes.peers

    @property
    def metric(self) -> Metric:
        """The metric: accuracy."""
        return Metric()

    @property
    def loss(self) -> Loss | None:
        """None, which stands for cross-entropy."""
        return None

    def agree(self, decide: Callable[[], str]) -> str:
        """The result (or exception) of ``decide`` in the main process, in every process."""
        return self._processes.agree(decide)

    def wait(self) -> None:
        """Wait until every process has reached this point."""
        self._processes.wait()

    def trace(self) -> Network:
        """Trace the model in its present state, for one image."""
        return trace(self._model, self._example, outputs=self._outputs)

    # -- training

    @torch.enable_grad()  # also within the caller's torch.no_grad()
    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train on one batch per learning rate, from number ``first``; return the mean loss."""
        self._prepared.train()
        total = torch.zeros((), dtype=self._sum_dtype, device=self._processes.device)
        batches = consecutive(self._train_feed, first, len(rates), self._processes.share)
        with (
            self._spread() as trained,
            seed_generators(self._training.seed, first, self._processes.share.index),
        ):
            for batch, rate in zip(batches, rates, strict=True):
                for group in self._prepared_optimizer.param_groups:
                    group["lr"] = rate
                self._processes.align_buffers_(trained)
                total += self._step(batch)
                self._average = update_average(self._average, trained, self._training.ema)
                tick()
        self._processes.average_(self._model.buffers())
        # In the model's order: an average that was read from a checkpoint may be in any.
        names = [name for name, _ in self._model.named_buffers() if name in self._average]
        self._processes.average_(self._average[name] for name in names)
        return float(self._processes.sum(total)) / len(rates)

    @contextmanager
    def _spread(self) -> Iterator[nn.Module]:
        """Context in which a stretch is trained: under FSDP, with the model spread over processes.

        Yields:
            The model whose tensors are trained in this process, without its wrappers.
        """
        if self._processes.sharding is None:
            yield self._model
            return
        whole = self._prepared, self._prepared_optimizer
        spread = ShardedTraining(
            self._model,
            self._optimizer,
            self._average,
            self._processes.sharding,
            lambda model: self._processes.set_precision(_Shell(model)),
            self._training,
        )
        self._prepared, self._prepared_optimizer = spread.shell, spread.optimizer
        self._average = spread.average
        with explain_split_weights():
            yield spread.model
        self._average = spread.gather(self._average)
        self._prepared, self._prepared_optimizer = whole
        del spread
        self._processes.forget_prepared()
        gc.collect()  # FSDP keeps the last gradients in a reference cycle

    def _step(self, batch: Batch) -> torch.Tensor:
        """Take one optimizer step; return this process's share of the batch's mean loss."""
        length = self._reader.count(batch)
        # As many parts in every process: each of them gathers weights from all others under FSDP.
        smallest = batch.whole // self._processes.share.of
        pieces = np.array_split(np.arange(length), min(self._training.accumulation_steps, smallest))
        total = torch.zeros((), dtype=self._sum_dtype, device=self._processes.device)
        for number, rows in enumerate(pieces):
            piece = batch if len(pieces) == 1 else self._reader.select(batch, rows)
            is_last = number == len(pieces) - 1
            with self._processes.sum_gradients(self._prepared, now=is_last):
                loss = self._loss_of(piece)
                self._processes.backward(loss)
            total += loss.detach()
        self._prepared_optimizer.step()
        self._prepared_optimizer.zero_grad()
        return total

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        """These examples' share of the whole batch's mean loss."""
        images, labels = self._reader.on_device(batch)
        scores = check_scores(self._select_outputs(self._prepared(images)), batch)
        return self._loss(scores, labels, images, batch) / batch.whole

    def _loss(
        self, scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """The labels' loss mixed with the distance from the dense model, summed over images."""
        training, share = self._training, self._training.distillation or 0.0
        loss = F.cross_entropy(
            scores, labels, label_smoothing=training.label_smoothing, reduction="sum"
        )
        if self._teacher is None:
            return loss
        with torch.no_grad(), self._processes.autocast():
            wanted = check_scores(self._select_outputs(self._teacher.model(images)), batch)
        return (1 - share) * loss + share * self._teacher.distances(wanted, scores).sum()

    def _select_outputs(self, outputs: object) -> object:
        """The outputs in use; a single tensor by itself."""
        if self._outputs is None:
            return outputs
        used = select_used(outputs, names_of(self._outputs))
        return used[0] if isinstance(used, list) and len(used) == 1 else used

    def follow(self, dense: Snapshot) -> None:
        """Distil from this model from now on, as ``training.distillation`` specifies."""
        model, _ = self._build(dense)
        device, temperature = self._processes.device, self._training.temperature
        self._teacher = Teacher(model.to(device), temperature, self._kind_of_outputs)

    # -- evaluation

    def evaluate(
        self, part: DataPart, tick: Callable[[], None], averaged: bool = False
    ) -> Evaluation:
        """Evaluate the model, or the average of its weights, on all examples of a split."""
        if not averaged:
            return self._evaluate(part, tick)
        with values_put(self._model, self._average):
            return self._evaluate(part, tick)

    def _evaluate(self, part: DataPart, tick: Callable[[], None]) -> Evaluation:
        correct, loss, count = self._sum_scores(part, tick).tolist()
        return Evaluation(correct / count, loss / count)

    def _sum_scores(self, part: DataPart, tick: Callable[[], None]) -> torch.Tensor:
        """Score every batch of a split in eval mode; the sum over batches and processes."""
        sums: torch.Tensor | None = None
        was_training = self._scoring.training
        self._scoring.eval()
        try:
            with torch.no_grad():
                for batch in self._feeds[part].in_order(self._processes.share):
                    scores = self._score_batch(batch)
                    sums = scores if sums is None else sums + scores
                    tick()
        finally:
            self._scoring.train(was_training)
        if sums is None:
            raise DataError(f"{part}: expected at least one batch; received none")
        return self._processes.sum(sums.to(self._processes.device))

    def _score_batch(self, batch: Batch) -> torch.Tensor:
        """(number of correctly classified images, sum of losses, number of images), shape (3,)."""
        if not len(batch.labels):
            return torch.zeros(3, dtype=torch.float64, device=self._processes.device)
        images, labels = self._reader.on_device(batch)
        return judge(check_scores(self._select_outputs(self._scoring(images)), batch), labels)

    def speed(self, dense: Snapshot) -> speed.SpeedComparison:
        """Images per second of the model and of the dense one, measured alternately."""
        inputs = self._reader.read_first(self._feeds["validation"], self._training.batch_size)
        before, _ = self._build(dense)
        device = self._processes.device
        on_cpu = device.type == "cpu"
        return speed.compare_speed(
            self._make_runner(cut_copy(self._model, Cut()), inputs),
            self._make_runner(before, inputs),
            length_of(inputs),
            "cpu" if on_cpu else torch.cuda.get_device_name(device),
            torch.get_num_threads() if on_cpu else None,
        )

    def _make_runner(self, model: nn.Module, inputs: object) -> Callable[[], object]:
        """A function that runs a model once and synchronises."""
        device = self._processes.device
        model.to(device).eval()

        def run() -> None:
            with torch.no_grad():
                self._reader.call(model, inputs)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    def release(self) -> nn.Module:
        """Return the model on its original device; the learner cannot be used afterwards."""
        self._processes.forget_prepared()
        place = next(self._origin.parameters()).device
        return self._model.to(place)

    # -- cutting, saving and restoring

    def apply(self, cut: Cut, network: Network | None = None) -> CutReport:
        """Make a cut and slice the optimizer's state likewise; proven if the network is given."""
        small, optimizer = apply(
            self._model,
            cut,
            self._example,
            optimizer=self._optimizer,
            network=network,
            proof=network is not None,
        )
        self._take(small, optimizer)
        if self._processes.share.of > 1:
            self._processes.check_agreement("the cut model", _digest(small))
        return report_of(small)

    def snapshot(self) -> Snapshot:
        """A copy of the model's and the optimizer's values, in CPU memory."""
        return Snapshot(
            {name: copy_to_cpu(value) for name, value in self._model.state_dict().items()},
            self.cut,
            *optimizer_values(self._optimizer),
            {name: copy_to_cpu(value) for name, value in self._average.items()},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the model and, if the snapshot has it, the optimizer."""
        self._take(*self._build(snapshot))
        place = self._processes.device
        self._average = {name: t.to(place, copy=True) for name, t in snapshot.average.items()}

    def _build(self, snapshot: Snapshot) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = rebuild(self._origin, snapshot, cut_copy, _fill_)
        optimizer = make_optimizer(model, self._training)
        if snapshot.settings is not None:
            restore_optimizer_(optimizer, snapshot)
        return model, optimizer

    def pack(self, tensors: Mapping[str, torch.Tensor], text: Mapping[str, str]) -> bytes:
        """Tensors and text as the content of a safetensors file."""
        return to_bytes(tensors, text)

    def unpack(self, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The inverse of ``pack``: (tensors, text)."""
        return unpack_safetensors(content, load_tensors)

    # -- internals

    def _take(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Train this model with this optimizer from now on."""
        self._processes.forget_prepared()
        self._model, self._optimizer = model, optimizer
        self._average = {}
        # Accelerate and DDP set attributes on this wrapper, never on the model.
        self._scoring = _Shell(model)
        self._prepared, self._prepared_optimizer = self._processes.prepare(self._scoring, optimizer)


def _fill_(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"expected the tensors of this {type(model).__name__}; {' '.join(str(error).split())}"
        ) from error


def _digest(model: nn.Module) -> str:
    """A checksum of a model's cut and values."""
    state = model.state_dict().items()
    values = {name: copy_to_cpu(t).contiguous().reshape(-1) for name, t in state}
    pieces = {name: t.view(torch.uint8).numpy().tobytes() for name, t in values.items()}
    return checksum_of_tensors({**pieces, "cut of": cut_of(model).to_json().encode()})


class _Shell(nn.Module):
    """Wrapper around a model, for Accelerate and DDP to wrap and set attributes on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: object, **keywords: object) -> object:
        return self.model(*arguments, **keywords)


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"{type(model).__name__}: expected finite weights; {name} holds NaN or infinity. "
                "Load a sound checkpoint."
            )


def default_training(model: nn.Module, given: Training | None = None) -> Training:
    """Training settings for a model: those given, or the defaults of ``Training``."""
    del model  # unlike a compiled Keras model, it holds no training settings
    return Training() if given is None else given
