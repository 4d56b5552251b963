"""The processes that train a model together, one or several, through Hugging Face Accelerate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from secateurs.calibration.peers import ALONE, Peers
from secateurs.errors import SecateursError
from secateurs.pytorch.training.peers import ProcessPeers
from secateurs.pytorch.training.sharding import LAUNCH, check_request, read_sharding
from secateurs.settings.training import Training
from secateurs.training.feed import Shard

if TYPE_CHECKING:
    from accelerate import Accelerator

_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Processes:
    """This process in the group of processes that train together.

    Attributes:
        share: this process's part of every batch.
        peers: all processes, for sums over calibration images.
        sharding: how a model is spread over the processes while it trains (FSDP); None if each
            trains a whole one.
    """

    def __init__(self, training: Training) -> None:
        """Join the group of processes, which may be this one alone.

        Raises:
            SecateursError: fewer processes train together than were requested.
        """
        check_launch()
        self._accelerator = make_accelerator(training)
        _check_processes(self._accelerator)
        _check_engine(self._accelerator)
        self.share = Shard(self._accelerator.process_index, self._accelerator.num_processes)
        self.peers: Peers = ALONE if self.share.of == 1 else ProcessPeers(self._accelerator)
        self.sharding = read_sharding(self._accelerator)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self._accelerator.device
        return device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and plans cuts."""
        return bool(self._accelerator.is_main_process)

    def agree(self, decide: Callable[[], str]) -> str:
        """The result (or exception) of ``decide`` in the main process, in every process."""
        return self.peers.from_main(decide)

    def check_agreement(self, name: str, value: str) -> None:
        """Check that all processes hold the same value.

        Args:
            name: name of the value, for the message.
            value: this process's value.

        Raises:
            SecateursError: in all processes, if two hold different values.
        """
        held = self.peers.gather(value)
        if len(set(held)) > 1:
            other = next(rank for rank, one in enumerate(held) if one != held[0])
            raise SecateursError(
                f"{name}: expected the same in all {self.share.of} processes; process {other} has "
                f"{held[other]}, process 0 {held[0]}. The last checkpoint is still valid; "
                "continue from it, and please report this."
            )

    def wait(self) -> None:
        """Wait until every process has reached this point."""
        self._accelerator.wait_for_everyone()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors, in each of them."""
        if self.share.of == 1:
            return tensor
        summed: torch.Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return summed

    def average_(self, buffers: Iterable[torch.Tensor]) -> None:
        """Average running statistics over processes: each has seen its own images."""
        if self.share.of == 1:
            return
        from accelerate.utils import reduce

        for buffer in buffers:
            if buffer.is_floating_point():
                buffer.copy_(reduce(buffer.clone(), reduction="mean"))

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap model and optimizer, so that gradients are those of all processes' images.

        Where models are spread over processes, the whole one is wrapped for evaluation only. In
        each case, all processes then have the main process's weights.
        """
        if self.sharding is not None:
            whole = self.set_precision(model, to_device=True)
            tensors = (*whole.parameters(), *whole.buffers())
            shapes = str([tuple(tensor.shape) for tensor in tensors])
            self.check_agreement("the shapes of the model's tensors", shapes)
            for tensor in tensors:
                self._broadcast_(tensor)
            return whole, optimizer
        wrapped, stepped = self._accelerator.prepare(model, optimizer)
        return wrapped, stepped

    def set_precision(self, model: nn.Module, *, to_device: bool = False) -> nn.Module:
        """Let a model compute in the training precision, without gradients of other processes."""
        found: nn.Module = self._accelerator.prepare_model(
            model, device_placement=to_device, evaluation_mode=True
        )
        return found

    def align_buffers_(self, model: nn.Module) -> None:
        """Replace a model's buffers by the main process's before a step, as DDP does.

        Running statistics are averaged at the end of a stretch; others, such as a codebook, would
        differ more and more.
        """
        if self.sharding is None:
            return
        same: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in model.buffers():
            same.setdefault(buffer.dtype, []).append(buffer)
        for buffers in same.values():
            flat = torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
            self._broadcast_(flat)
            for buffer, part in zip(
                buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True
            ):
                buffer.detach().copy_(part.view_as(buffer))

    def _broadcast_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor's values by the main process's."""
        values = tensor.detach()
        sent = values.contiguous()
        # Gloo does not send truth values.
        torch.distributed.broadcast(sent.view(torch.uint8) if sent.dtype is torch.bool else sent, 0)
        if sent is not values:
            values.copy_(sent)

    def sum_gradients(self, model: nn.Module, *, now: bool) -> AbstractContextManager[None]:
        """Context for a backward pass; gradients are summed over processes only if ``now``.

        Where models are spread over processes, they always are: otherwise each process would hold
        the gradients of the whole model.
        """
        if now or self.share.of == 1 or self.sharding is not None:
            return nullcontext()
        apart: AbstractContextManager[None] = self._accelerator.no_sync(model)
        return apart

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients of the sum of all processes' losses."""
        # DDP and FSDP average gradients over processes; times their number, that is the sum over
        # the whole batch.
        self._accelerator.backward(loss * self.share.of)

    def autocast(self) -> AbstractContextManager[None]:
        """Autocast of the training precision, for a model that was not prepared."""
        precision: AbstractContextManager[None] = self._accelerator.autocast()
        return precision

    def forget_prepared(self) -> None:
        """Release earlier models: Accelerate keeps references to all that it prepares."""
        if self._accelerator.device.type != "cpu":
            self._accelerator.free_memory()
            return
        # The same without the garbage collection, which takes a quarter of a second.
        self._accelerator._models.clear()
        self._accelerator._optimizers.clear()


def check_launch() -> None:
    """Refuse to train in one process where several were requested.

    ``accelerate launch --num_processes 2`` silently starts one process on a machine without
    accelerators; the only trace of the request is a rendezvous address in the environment.

    Raises:
        SecateursError: that has happened.
    """
    if was_launched_alone():
        raise SecateursError(
            "accelerate launch was asked for several processes, but without accelerators (and "
            "without mpirun) it starts one. Start them with torchrun instead: torchrun "
            "--nproc-per-node 2 -m secateurs run ..."
        )


def was_launched_alone() -> bool:
    """Whether ``accelerate launch`` was asked for several processes and started only this one."""
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    return by_accelerate and not any(name in os.environ for name in _WORLD_SIZES)


def make_accelerator(training: Training) -> Accelerator:
    """An Accelerator that joins this process to the others, in the requested precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check_request()
    if AcceleratorState._shared_state:  # the user's program has one already, and it is a singleton
        return Accelerator()
    # By default, Accelerate treats several processes on CPUs as single ones.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = several and not torch.accelerator.is_available()
    precision = {"fp32": "no", "bf16": "bf16"}.get(training.precision)
    if precision is None:
        requested = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        on_cuda = torch.cuda.is_available() and not _is_cpu_requested()
        supports_bf16 = on_cuda and torch.cuda.is_bf16_supported()
        precision = requested if requested != "no" else "bf16" if supports_bf16 else "no"
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def _check_processes(accelerator: Accelerator) -> None:
    """Refuse processes that were started together but would each train alone."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise SecateursError(
            f"{started} processes were started, but Accelerate was set up for "
            f"{accelerator.num_processes} before: create Accelerator(cpu=True) for several "
            "processes on CPUs, or leave it to secateurs"
        )


def _check_engine(accelerator: Accelerator) -> None:
    """Refuse engines that keep a model spread over processes: cuts and proofs need it whole."""
    found = str(accelerator.distributed_type).rpartition(".")[2]
    if found in _FLAG_OF:
        raise SecateursError(
            f"processes: expected each to hold the whole model (DDP), or to share its training "
            f"(FSDP); received {found}, under which no cut can be made or proven. Launch without "
            f"{_FLAG_OF[found]}; where memory is short: {LAUNCH}"
        )


_FLAG_OF = {
    "DEEPSPEED": "--use_deepspeed",
    "MEGATRON_LM": "--use_megatron_lm",
    "TP": "tensor parallelism",
}


def _is_cpu_requested() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
