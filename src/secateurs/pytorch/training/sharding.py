"""A model that is spread over several processes while it trains (FSDP).

Cuts, proofs, scores, evaluations and checkpoints use the whole model, as without FSDP. Only a
stretch of training is spread: at its beginning each process keeps its part of every weight, of the
optimizer's state and of the average of the weights, and at its end the whole is gathered again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from secateurs.errors import ModelError, SecateursError
from secateurs.pytorch.model.copies import list_modules, share_tensors
from secateurs.pytorch.training.averaging import NamedTensors
from secateurs.pytorch.training.optimizers import make_optimizer_of
from secateurs.settings.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.device_mesh import DeviceMesh

LAUNCH = "accelerate launch --use_fsdp --fsdp_version 2 --num_processes N -m secateurs run ..."
_VERSION = 2
_WITHOUT = "Launch with --fsdp_auto_wrap_policy NO_WRAP, which gathers all weights at every step."


@dataclass(frozen=True)
class Sharding:
    """How a model is spread over processes.

    A unit is a module whose weights are gathered when it runs, and freed after it. All other
    weights are gathered for a whole step.

    Attributes:
        mesh: the processes.
        layers: names of the classes that are units; empty for those that a Transformers model names
            itself, None for no such units.
        least: parameters that make a module a unit; None for no such units.
        reshard: whether a unit is also freed between the forward and the backward pass.
    """

    mesh: DeviceMesh
    layers: tuple[str, ...] | None = None
    least: int | None = None
    reshard: bool = True

    def split_(self, shell: nn.Module, model: nn.Module) -> None:
        """Replace a model's parameters by this process's parts of them.

        Args:
            shell: wrapper around the model that is called in its place.
            model: the model.

        Raises:
            ModelError: FSDP does not support its parameters.
        """
        from torch.distributed.fsdp import FSDPModule, fully_shard

        _check_dtypes(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP requires it
        # A scalar cannot be split: every process keeps it.
        scalars = {parameter for parameter in model.parameters() if not parameter.dim()}
        ignored: dict[str, Any] = {"ignored_params": scalars} if scalars else {}
        try:
            for unit in self._list_units(model):
                fully_shard(unit, mesh=self.mesh, reshard_after_forward=self.reshard, **ignored)
            fully_shard(shell, mesh=self.mesh, **ignored)
        except (ValueError, NotImplementedError) as error:
            message = " ".join(str(error).split())
            raise ModelError(f"{type(model).__name__}: FSDP: {message}. {_WITHOUT}") from error
        if self.mesh.device_type == "cpu":  # Gloo sums, but does not average
            for module in shell.modules():
                if isinstance(module, FSDPModule):
                    module.set_force_sum_reduction_for_comms(True)

    def _list_units(self, model: nn.Module) -> list[nn.Module]:
        """The units, inner ones first."""
        modules = [module for path, module in list_modules(model) if path][::-1]
        if self.layers is not None:
            names = self.layers or tuple(getattr(model, "_no_split_modules", None) or ())
            units = [module for module in modules if type(module).__name__ in names]
            if self.layers and not units:
                raise SecateursError(
                    f"fsdp_transformer_layer_cls_to_wrap: expected classes of modules in "
                    f"{type(model).__name__}; received {', '.join(self.layers)}"
                )
            return units
        return [] if self.least is None else _list_large(modules, self.least)


class ShardedTraining:
    """A whole model, spread over the processes for a stretch of training.

    Until ``gather`` is called, the whole model and its optimizer hold no values.

    Attributes:
        model: modules like the whole model's, with this process's part of the parameters.
        shell: wrapper around it that is called with a batch.
        optimizer: optimizer of this process's part.
        average: this process's part of the average of the weights.
    """

    def __init__(
        self,
        whole: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: NamedTensors,
        sharding: Sharding,
        wrap: Callable[[nn.Module], nn.Module],
        training: Training,
    ) -> None:
        """Spread the model.

        Args:
            whole: model, the same in all processes; emptied.
            optimizer: its optimizer; emptied.
            average: average of its weights, which may be empty.
            sharding: how to spread it.
            wrap: wraps a model for training.
            training: settings that the optimizer was made from.
        """
        self._whole, self._whole_optimizer = whole, optimizer
        parameters = list(whole.parameters())
        layouts = [torch.empty_like(parameter, device="meta") for parameter in parameters]
        self.model = share_tensors(whole)
        self.shell = wrap(self.model)
        sharding.split_(self.shell, self.model)
        self._parts = [
            _Part(whole, layout, held)
            for whole, layout, held in zip(
                parameters, layouts, self.model.parameters(), strict=True
            )
        ]
        self.average = self._map_by_name(split, average)
        trained = [part for part in self._parts if part.mine.requires_grad]
        inner = make_optimizer_of([part.mine for part in trained], training)
        self.optimizer = ShardedOptimizer(inner, trained, sharding.mesh.size())
        self._split_state()
        for part in self._parts:
            part.empty_whole_()

    @torch.no_grad()
    def gather(self, average: Mapping[str, torch.Tensor]) -> NamedTensors:
        """Put the trained values into the whole model and its optimizer.

        What was spread is freed, and cannot be trained again.

        Args:
            average: this process's part of the average of the weights.

        Returns:
            The whole of it.
        """
        gathered = self._map_by_name(join, average)
        self._join_state()
        for part in self._parts:
            part.fill_whole_()
        # Buffers are shared with the whole model, except where its code replaced them.
        for name, module in list_modules(self.model):
            self._whole.get_submodule(name)._buffers.update(module._buffers)
        return gathered

    def _map_by_name(
        self,
        change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        values: Mapping[str, torch.Tensor],
    ) -> NamedTensors:
        """Split or join values that have the names of the model's state."""
        # In the model's order: values that were read from a file may be in any, and each process
        # must send the same one.
        state = self.model.state_dict() if values else {}
        return {n: change(values[n], held) for n, held in state.items() if n in values}

    def _split_state(self) -> None:
        inner, outer = self.optimizer.inner, self._whole_optimizer
        _copy_settings_(outer, inner)
        for part in self._parts:
            state = outer.state.pop(part.whole, None)
            if state is not None:
                inner.state[part.mine] = {
                    key: split(value, part.held) if _is_like(key, value, part.whole) else value
                    for key, value in state.items()
                }

    def _join_state(self) -> None:
        inner, outer = self.optimizer.inner, self._whole_optimizer
        _copy_settings_(inner, outer)
        for part in self._parts:
            state = inner.state.pop(part.mine, None)
            if state is not None:
                # Sorted: a state that was read from a checkpoint may be in any order, and each
                # process must send the same value.
                outer.state[part.whole] = {
                    key: _join_on_cpu(value, part) if _is_like(key, value, part.mine) else value
                    for key, value in sorted(state.items())
                }


class _Part:
    """This process's part of a parameter.

    Attributes:
        whole: parameter of the whole model.
        held: parameter of the model that is spread: a DTensor, or ``whole`` itself.
        mine: the part, in the same memory.
    """

    def __init__(self, whole: torch.Tensor, layout: torch.Tensor, held: torch.Tensor) -> None:
        self.whole, self.held, self._layout = whole, held, layout
        self.is_split = _is_split(held)
        self.mine = held
        if self.is_split:
            self.mine = nn.Parameter(_local(held.detach()), requires_grad=held.requires_grad)

    def empty_whole_(self) -> None:
        """Free the memory of the whole parameter."""
        if self.is_split:
            self.whole.data = self.whole.data.new_empty(0)

    def fill_whole_(self) -> None:
        """Gather the whole parameter, and free the memory of its part."""
        if self.is_split:
            self.whole.data = torch.empty_like(self._layout, device=self.mine.device)
            self.whole.data.copy_(join(self.mine, self.held))
            # Reference cycles in FSDP would hold it until the next garbage collection.
            self.mine.untyped_storage().resize_(0)


class ShardedOptimizer:
    """Steps this process's parts of the parameters, as plain tensors.

    PyTorch's optimizers step DTensors one at a time, and plain tensors all at once.

    Attributes:
        inner: optimizer of the parts.
    """

    def __init__(
        self, inner: torch.optim.Optimizer, parts: Sequence[_Part], processes: int
    ) -> None:
        self.inner, self._parts, self._processes = inner, parts, processes

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their settings."""
        return self.inner.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with the average of all processes' gradients."""
        for part in self._parts:
            gradient = part.held.grad
            if part.is_split:
                part.mine.grad = None if gradient is None else _local(gradient)
            elif gradient is not None:  # of a scalar, which FSDP leaves alone
                torch.distributed.all_reduce(gradient)
                gradient /= self._processes
        self.inner.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.held.grad = part.mine.grad = None


@torch.no_grad()
def split(value: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """A copy of this process's part of a value, split like a tensor of the model."""
    if not _is_split(held):
        return value.to(held.device, copy=True)
    mesh: DeviceMesh = held.device_mesh  # type: ignore[attr-defined]
    # FSDP splits the first axis; where it is short, parts are empty.
    parts = value.chunk(mesh.size())
    rank = mesh.get_local_rank()
    mine = parts[rank] if rank < len(parts) else value[:0]
    return mine.to(held.device, copy=True, memory_format=torch.contiguous_format)


@torch.no_grad()
def join(mine: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """The whole of a value of which each process has its part: the inverse of ``split``."""
    if not _is_split(held):
        return mine
    count = held.device_mesh.size()  # type: ignore[attr-defined]
    rows = -(-held.shape[0] // count)  # the first process has as many, the last ones fewer
    padded = mine.new_zeros(rows, *held.shape[1:])
    padded[: mine.shape[0]].copy_(mine)
    whole = mine.new_empty(rows * count, *held.shape[1:])
    torch.distributed.all_gather(list(whole.chunk(count)), padded)
    return whole[: held.shape[0]]


def read_sharding(accelerator: Accelerator) -> Sharding | None:
    """How the launch requested that models are spread; None if it did not.

    Accelerate itself ignores such a request where processes train on CPUs.

    Raises:
        SecateursError: it requested what is not supported.
    """
    is_sharded = str(accelerator.distributed_type).endswith("FSDP")
    if not is_sharded and (accelerator.num_processes == 1 or not _is_requested()):
        return None
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh

    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    _check_plugin(plugin, accelerator.mixed_precision)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = plugin.auto_wrap_policy
    name = getattr(getattr(policy, "func", policy), "__name__", "")
    is_by_class, is_by_size = name.startswith("transformer"), name.startswith("size_based")
    layers = tuple(plugin.transformer_cls_names_to_wrap or ()) if is_by_class else None
    least = (plugin.min_num_params or 1) if is_by_size else None
    return Sharding(mesh, layers, least, bool(plugin.reshard_after_forward))


def check_request() -> None:
    """Refuse a launch with FSDP version 1, which Accelerate cannot set up on CPUs.

    Raises:
        SecateursError: it was requested.
    """
    if _is_requested():
        _check_version(int(os.environ.get("FSDP_VERSION", "1")))


@contextmanager
def explain_split_weights() -> Iterator[None]:
    """Turn PyTorch's error about weights that were not gathered into one with the fix.

    Raises:
        ModelError: in place of that error.
    """
    try:
        yield
    except RuntimeError as error:
        if "DTensor" not in str(error):
            raise
        raise ModelError(
            "FSDP: expected the weights of a unit to be used by this unit only, since they are "
            f"gathered when it is called; received {' '.join(str(error).split())}. {_WITHOUT}"
        ) from error


def _is_requested() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _check_version(version: int) -> None:
    if version != _VERSION:
        raise SecateursError(
            f"processes: expected FSDP version {_VERSION}; received {version}. Launch with "
            f"--fsdp_version {_VERSION}: {LAUNCH}"
        )


def _check_plugin(plugin: Any, precision: str) -> None:
    _check_version(getattr(plugin, "fsdp_version", 1))
    is_offloaded = type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy"
    unsupported = {
        "--fsdp_offload_params": is_offloaded,
        "--fsdp_activation_checkpointing": plugin.activation_checkpointing,
        "--fsdp_ignored_modules": plugin.ignored_modules,
        f"--mixed_precision {precision}": precision not in ("no", "bf16"),
    }
    found = [option for option, is_requested in unsupported.items() if is_requested]
    if found:
        raise SecateursError(
            f"processes: expected FSDP without {' and '.join(found)}, which is not supported. "
            "Leave it out; bf16 is supported, and a model may recompute activations by itself "
            "(gradient_checkpointing_enable() in Transformers)"
        )


def _check_dtypes(model: nn.Module) -> None:
    found = {str(p.dtype).partition(".")[2] for p in model.parameters() if p.requires_grad}
    if len(found) > 1:
        raise ModelError(
            f"{type(model).__name__}: expected trainable parameters of one dtype, which FSDP "
            f"requires; received {', '.join(sorted(found))}. Convert the model: model.float()."
        )


def _list_large(modules: Sequence[nn.Module], least: int) -> list[nn.Module]:
    """Modules of at least so many parameters, without those of modules before them.

    Inside an attention layer of PyTorch's there are none: it uses its layers' weights itself. Nor
    is a container without a forward pass, which is never called.
    """
    units: list[nn.Module] = []
    assigned: set[int] = set()
    attention = [m for m in modules if isinstance(m, nn.MultiheadAttention)]
    inside = {id(part) for layer in attention for part in layer.modules() if part is not layer}
    for module in modules:
        rest = [p for p in module.parameters() if id(p) not in assigned]
        can_be_called = type(module).forward is not nn.Module.forward and id(module) not in inside
        if can_be_called and sum(p.numel() for p in rest) >= least:
            units.append(module)
            assigned.update(map(id, rest))
    return units


def _copy_settings_(source: torch.optim.Optimizer, target: torch.optim.Optimizer) -> None:
    for theirs, mine in zip(source.param_groups, target.param_groups, strict=True):
        mine.update({key: value for key, value in theirs.items() if key != "params"})


def _is_like(key: str, value: object, parameter: torch.Tensor) -> bool:
    """Whether an optimizer's value has an element for each of a parameter's."""
    return key != "step" and isinstance(value, torch.Tensor) and value.shape == parameter.shape


def _join_on_cpu(value: torch.Tensor, part: _Part) -> torch.Tensor:
    """The whole of an optimizer's value, in CPU memory: not all may fit beside the model."""
    return join(value, part.held).detach().to("cpu", copy=True)


def _is_split(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "to_local")


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a DTensor, in the same memory."""
    part: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part
