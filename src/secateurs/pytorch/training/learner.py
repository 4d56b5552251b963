"""Training PyTorch models for the loop, all of it through Hugging Face Accelerate.

The same study runs on one CPU, on one GPU (in bf16), or in several processes that ``accelerate
launch`` starts. Each process takes its own part of every batch; gradients are those of the whole
batch, whatever the number of processes. Batch normalisation is the exception: a process normalises
by its own part.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from torch import nn
from torch.nn import functional as F

from secateurs import errors
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, cut_of, keep_report_, report_of
from secateurs.errors import CheckpointError, DataError, ModelError, SecateursError
from secateurs.files import unpack_safetensors
from secateurs.measurement import speed
from secateurs.pytorch.cutting import apply
from secateurs.pytorch.model.example_inputs import check_model
from secateurs.pytorch.saving import to_bytes
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.trace_model import trace
from secateurs.settings.configuration import Training
from secateurs.study.history import Record
from secateurs.training.feed import Augmentation, Batch, Feed, Shard, as_feed, consecutive
from secateurs.training.learner import Evaluation, Part, Snapshot

if TYPE_CHECKING:
    from accelerate import Accelerator

_EVALUATION_BATCH = 256
_SPEED_PASSES, _SPEED_SECONDS = 7, 0.05
_DROPOUT = 5


class Learner:
    """A PyTorch model in training; see ``secateurs.training.learner.Learner``."""

    def __init__(
        self, model: nn.Module, train: Any, validation: Any, test: Any, training: Training
    ) -> None:
        """A copy of a model, and what to train it on.

        Args:
            model: the dense model; unchanged.
            train: a Split, a pair (images, labels), or an iterable of such pairs (a DataLoader).
            validation: the same.
            test: the same, or None.
            training: how to train.

        Raises:
            DataError: the data are empty, of one class, or nothing of the kind.
            ModelError: weights hold NaN or infinity.
        """
        self._origin = check_model(model)
        _check_finite(model)
        self._training = training
        self._accelerator = _accelerator(training)
        _check_processes(self._accelerator)
        self._share = Shard(self._accelerator.process_index, self._accelerator.num_processes)
        self._train_feed = self._feed(train, "train", training.batch_size)
        larger = max(_EVALUATION_BATCH, training.batch_size)
        self._feeds: dict[Part, Feed] = {"validation": self._feed(validation, "validation", larger)}
        if test is not None:
            self._feeds["test"] = self._feed(test, "test", larger)
        self._example = _first_images(self._train_feed, 1)
        small = cut_copy(model, Cut())
        self._take(small, _optimizer(small, training))

    @property
    def model(self) -> nn.Module:
        """The model as it is now, wrapped in nothing."""
        return self._model

    @property
    def cut(self) -> Cut:
        """What has gone since the dense model."""
        return cut_of(self._model)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts."""
        return bool(self._accelerator.is_main_process)

    @property
    def batches_an_epoch(self) -> int:
        """Batches in which every training image is seen once."""
        return len(self._train_feed)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return "test" in self._feeds

    def agree(self, decide: Callable[[], str]) -> str:
        """What ``decide`` returns in the main process, or raises there; the same in all others."""
        if self._accelerator.num_processes == 1:
            return decide()
        from accelerate.utils import broadcast_object_list

        said: list[Any] = [None, ""]
        if self.is_main:
            try:
                said = [None, decide()]
            except SecateursError as error:
                said = [type(error).__name__, str(error)]
        kind, value = broadcast_object_list(said)
        if kind is not None:
            raise getattr(errors, kind)(value)
        return str(value)

    def wait(self) -> None:
        """Return once every process has come this far."""
        self._accelerator.wait_for_everyone()

    def trace(self) -> Network:
        """The network of the model as it is now, for one image."""
        return trace(self._model, self._example)

    def calibration(self, batches: int) -> Iterable[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Training batches (images, labels), as they are; can be gone through again."""
        return _Calibration(self._train_feed, batches)

    # -- training

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train on batches number ``first`` and on, one for each learning rate; their mean loss."""
        self._prepared.train()
        total = torch.zeros((), device=self._accelerator.device)
        batches = consecutive(self._train_feed, first, len(rates), self._share)
        with _seeded(self._training.seed, first, self._share.index):
            for batch, rate in zip(batches, rates, strict=True):
                for group in self._optimizer.param_groups:
                    group["lr"] = rate
                total += self._step(batch)
                tick()
        self._average_buffers_()
        return float(self._summed(total)) / len(rates)

    def _step(self, batch: Batch) -> torch.Tensor:
        """One step of the optimizer; this process's part of the batch's mean loss."""
        images, labels = self._on_device(batch)
        scores = _checked_scores(self._prepared(images), batch)
        smoothing = self._training.label_smoothing
        loss = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="sum")
        loss = loss / batch.whole
        # Gradients are averaged over processes: times their number is the sum, of the whole batch.
        self._accelerator.backward(loss * self._share.of)
        self._prepared_optimizer.step()
        self._prepared_optimizer.zero_grad()
        return loss.detach()

    def _average_buffers_(self) -> None:
        """Running statistics of all processes, made one: each has seen its own images."""
        if self._share.of == 1:
            return
        from accelerate.utils import reduce

        for buffer in self._model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(reduce(buffer.clone(), reduction="mean"))

    # -- evaluation

    def batches_of(self, part: Part) -> int:
        """Batches in which a split is evaluated."""
        return self._feeds[part].whole_length

    def evaluate(self, part: Part, tick: Callable[[], None]) -> Evaluation:
        """How well the model does on all images of a split."""
        sums = torch.zeros(3, dtype=torch.float64, device=self._accelerator.device)
        was_training = self._scoring.training
        self._scoring.eval()
        try:
            with torch.no_grad():
                for batch in self._feeds[part].in_order(self._share):
                    sums += self._judged(batch)
                    tick()
        finally:
            self._scoring.train(was_training)
        correct, loss, count = self._summed(sums).tolist()
        return Evaluation(correct / count, loss / count)

    def _judged(self, batch: Batch) -> torch.Tensor:
        """(images classified rightly, sum of their losses, images)."""
        if not len(batch.labels):
            return torch.zeros(3, dtype=torch.float64, device=self._accelerator.device)
        images, labels = self._on_device(batch)
        scores = _checked_scores(self._scoring(images), batch).float()
        correct = (scores.argmax(dim=1) == labels).sum().double()
        loss = F.cross_entropy(scores, labels, reduction="sum").double()
        return torch.stack([correct, loss, correct.new_tensor(len(labels))])

    def speed(self, dense: Snapshot) -> Record:
        """Images a second of the model and of the dense one, measured in turns."""
        images = _first_images(self._feeds["validation"], self._training.batch_size)
        tensor = torch.from_numpy(images).to(self._accelerator.device)
        before, _ = self._built(dense)
        runs = {
            name: _runner(model.to(tensor.device).eval(), tensor)
            for name, model in (("dense", before), ("pruned", cut_copy(self._model, Cut())))
        }
        speeds = speed.throughput(runs, len(images), repeats=_SPEED_PASSES, seconds=_SPEED_SECONDS)
        ratio = speed.ratio(speeds["pruned"], speeds["dense"])
        on_cpu = tensor.device.type == "cpu"
        return {
            "images_per_second": speeds["pruned"].median,
            "dense_images_per_second": speeds["dense"].median,
            "ratio": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
            "batch_size": len(images),
            "device": "cpu" if on_cpu else torch.cuda.get_device_name(tensor.device),
            "threads": torch.get_num_threads() if on_cpu else None,
        }

    def release(self) -> nn.Module:
        """The model, back on the device it came from; the learner is of no more use."""
        self._forget_prepared()
        place = next(self._origin.parameters()).device
        return self._model.to(place)

    # -- cutting and keeping

    def apply(self, cut: Cut, network: Network | None = None) -> CutReport:
        """Make a cut, the optimizer's state sliced along; proven where the network is given."""
        small, optimizer = apply(
            self._model,
            cut,
            self._example,
            optimizer=self._optimizer,
            network=network,
            proof=network is not None,
        )
        self._take(small, optimizer)
        return report_of(small)

    def snapshot(self) -> Snapshot:
        """A copy of the model's and the optimizer's values, in ordinary memory."""
        state = self._optimizer.state_dict()
        tensors: dict[str, torch.Tensor] = {}
        plain: dict[str, Any] = {}
        for number, values in state["state"].items():
            for key, value in values.items():
                name = f"{number}.{key}"
                if isinstance(value, torch.Tensor):
                    tensors[name] = _copied(value)
                else:
                    plain[name] = value
        return Snapshot(
            {name: _copied(value) for name, value in self._model.state_dict().items()},
            self.cut,
            tensors,
            {"groups": state["param_groups"], "plain": plain},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Make the model, and where it was kept the optimizer, what they were."""
        self._take(*self._built(snapshot))

    def _built(self, snapshot: Snapshot) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = cut_copy(self._origin, snapshot.cut)
        try:
            model.load_state_dict(dict(snapshot.tensors))
        except RuntimeError as error:
            raise CheckpointError(
                f"expected the tensors of this {type(model).__name__}; "
                f"{' '.join(str(error).split())}"
            ) from error
        if snapshot.cut:
            keep_report_(model, CutReport(snapshot.cut))
        optimizer = _optimizer(model, self._training)
        if snapshot.settings is not None:
            optimizer.load_state_dict(_optimizer_state(snapshot))
        return model, optimizer

    def pack(self, tensors: Mapping[str, Any], said: Mapping[str, str]) -> bytes:
        """Tensors and text as the content of a safetensors file."""
        return to_bytes(tensors, said)

    def unpack(self, content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
        """What ``pack`` was given."""
        return unpack_safetensors(content, load_tensors)

    # -- inside

    def _take(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Train this model with this optimizer from now on."""
        self._forget_prepared()
        self._model, self._optimizer = model, optimizer
        # Accelerate and DDP leave their marks on this shell, never on the model.
        self._scoring = _Shell(model)
        self._prepared, self._prepared_optimizer = self._accelerator.prepare(
            self._scoring, optimizer
        )

    def _forget_prepared(self) -> None:
        """Let go of earlier models: Accelerate keeps all that it prepares."""
        if self._accelerator.device.type != "cpu":
            self._accelerator.free_memory()
            return
        # The same but for a quarter of a second of garbage collection.
        self._accelerator._models.clear()
        self._accelerator._optimizers.clear()

    def _feed(self, source: Any, what: str, batch_size: int) -> Feed:
        training = self._training
        augmentation = Augmentation(training.flip, training.shift)
        feed = as_feed(
            source,
            batch_size,
            training.seed,
            augmentation if what == "train" else Augmentation(),
            what,
            lambda epoch: _seeded(training.seed, epoch),
        )
        smallest = min(batch.whole for batch in [next(feed.in_order())])
        if what == "train" and smallest < self._share.of:
            raise DataError(
                f"{what}: expected batches of at least {self._share.of} images, one a process; "
                f"received {smallest}"
            )
        return feed

    def _on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._accelerator.device
        images = torch.from_numpy(np.ascontiguousarray(batch.images))
        labels = torch.from_numpy(np.ascontiguousarray(batch.labels))
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._share.of == 1:
            return tensor
        summed: torch.Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return summed


class _Shell(nn.Module):
    """Around a model, for others to wrap and to mark."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return self.model(images)


class _Calibration:
    """The first batches of the training data, as often as they are asked for."""

    def __init__(self, feed: Feed, batches: int) -> None:
        self._feed, self._batches = feed, batches

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        for batch, _ in zip(self._feed.in_order(), range(self._batches), strict=False):
            yield batch.images, batch.labels


def _accelerator(training: Training) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state:  # somebody's program has one already; there can be but one
        return Accelerator()
    # Left to itself, Accelerate takes several processes on CPUs for as many single ones.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = several and not torch.accelerator.is_available()
    precision = {"fp32": "no", "bf16": "bf16"}.get(training.precision)
    if precision is None:
        asked_for = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        on_cuda = torch.cuda.is_available() and not _cpu_asked_for()
        able = on_cuda and torch.cuda.is_bf16_supported()
        precision = asked_for if asked_for != "no" else "bf16" if able else "no"
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def _check_processes(accelerator: Accelerator) -> None:
    """Refuse to let processes that were started together each do everything alone."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise SecateursError(
            f"{started} processes were started, but Accelerate was set up for "
            f"{accelerator.num_processes} before: create Accelerator(cpu=True) for several "
            "processes on CPUs, or leave it to secateurs"
        )


def _cpu_asked_for() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError(
            f"{type(model).__name__}: expected parameters that can be trained; all of them are "
            "frozen (requires_grad=False)"
        )
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "compiled":
        raise ModelError(
            f"{type(model).__name__}: expected optimizer 'sgd' or 'adamw'; received 'compiled', "
            "which only a Keras model can be"
        )
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)
    momentum = training.momentum
    return torch.optim.SGD(
        parameters, rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0
    )


def _optimizer_state(snapshot: Snapshot) -> dict[str, Any]:
    """The optimizer's ``state_dict``, put together again."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*snapshot.optimizer.items(), *snapshot.settings["plain"].items()):
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    return {"state": state, "param_groups": snapshot.settings["groups"]}


@contextlib.contextmanager
def _seeded(*seeds: int) -> Iterator[None]:
    """PyTorch's random numbers from these seeds; afterwards they go on as if nothing had been."""
    seed = int(np.random.default_rng([_DROPOUT, *seeds]).integers(2**62))
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng([torch.cuda.current_device()] if on_cuda else []):
        torch.manual_seed(seed)
        yield


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"{type(model).__name__}: expected finite weights; {name} holds NaN or infinity. "
                "Load a sound checkpoint."
            )


def default_training(model: nn.Module) -> Training:
    """How to train a model of which nothing is said: as ``Training`` does by itself."""
    del model  # a PyTorch model does not know how it was trained
    return Training()


def _checked_scores(scores: Any, batch: Batch) -> torch.Tensor:
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        received = (
            tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        )
        raise ModelError(
            "expected a model that gives scores of shape (images, classes) for a batch of images; "
            f"received {received}"
        )
    if batch.labels.max(initial=0) >= scores.shape[1] or batch.labels.min(initial=0) < 0:
        raise DataError(
            f"expected labels of 0 to {scores.shape[1] - 1}, as the model has {scores.shape[1]} "
            f"outputs; received labels of {batch.labels.min()} to {batch.labels.max()}"
        )
    return scores


def _first_images(feed: Feed, count: int) -> NDArray[Any]:
    images: NDArray[Any] = next(feed.in_order()).images[:count]
    return np.ascontiguousarray(images)


def _runner(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)

    return run
