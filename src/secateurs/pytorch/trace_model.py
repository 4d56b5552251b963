"""Trace a PyTorch model into a ``Network``: one forward pass, observed at the dispatcher."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.channels.blocks import Block
from secateurs.channels.cut import Cache
from secateurs.channels.garbage import pause_garbage_collection
from secateurs.channels.latest import remember
from secateurs.channels.network import Network, Scaling, Size
from secateurs.errors import CutError, ModelError
from secateurs.pytorch.configurations import TransformersConfiguration, configuration_of
from secateurs.pytorch.model.copies import list_modules, share_tensors
from secateurs.pytorch.model.example_inputs import check_model, format_inputs, parse_example_inputs
from secateurs.pytorch.model.outputs import (
    OutputName,
    check_names,
    is_used,
    named_outputs,
    select_used,
)
from secateurs.pytorch.model.tensors import ModelTensor, check_values, list_tensors
from secateurs.pytorch.sizes.bindings import Tie
from secateurs.pytorch.sizes.dry_run import UNKNOWN_LINE, line_of
from secateurs.pytorch.sizes.hardcoded import HardcodedSizes
from secateurs.pytorch.sizes.layer_sizes import CONVOLUTION, constrain_attention, layer_sizes_of
from secateurs.pytorch.sizes.reads import Reads
from secateurs.pytorch.sizes.unread import follow_unread_sizes_, may_count
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.blocks import find_blocks
from secateurs.pytorch.tracing.caches import forget_caches_
from secateurs.pytorch.tracing.op_call import map_tensors, without_values
from secateurs.pytorch.tracing.op_record import ForwardPass, OpRecord
from secateurs.pytorch.tracing.siblings import (
    bind_siblings_,
    operations_of,
    scalings_of_siblings,
    sizes_of_siblings,
)
from secateurs.pytorch.tracing.tracer import NETWORK_OUTPUT, Tracer

OptionalOutputs = OutputName | Sequence[OutputName] | None

BY_VALUES = "Traced on real tensors"
"""First words of the note on a network whose forward pass depends on tensor values."""


@dataclass(frozen=True, eq=False)
class TracedModel:
    """The PyTorch model behind a ``Network``, and the record of its trace.

    Attributes:
        model: the user's own model, unchanged.
        example_inputs: the inputs it was traced with.
        operations: operations of its forward pass in order, for the dry run and the masked twin.
        tensors: tensors of the model, by name.
        caches: tensors that a forward pass keeps for the next one; removed before tracing.
        framework: name of the framework.
        outputs: names of the outputs in use; None for all.
        is_by_values: whether the forward pass reads values of tensors, and was traced on real ones.
    """

    model: nn.Module
    example_inputs: object
    operations: Sequence[OpRecord]
    tensors: dict[str, torch.Tensor]
    caches: tuple[Cache, ...] = ()
    framework: str = "pytorch"
    outputs: tuple[str, ...] | None = None
    is_by_values: bool = False

    @property
    def device(self) -> str:
        """The type of the model's device: 'cpu', 'cuda', ..."""
        return next((tensor.device.type for tensor in self.tensors.values()), "cpu")

    def select_used(self, outputs: object) -> object:
        """Select the outputs in use: the ones that a cut must leave unchanged."""
        return select_used(outputs, self.outputs)

    def check_values(self, caller: str) -> None:
        """Refuse a model on the meta device where values are needed.

        Raises:
            ModelError: a tensor has no values; the message names it.
        """
        otherwise = 'score by "random"'
        leaves = list_tensors(self.model)
        check_values(leaves, self.example_inputs, caller=caller, otherwise=otherwise)

    def to_run(self) -> nn.Module:
        """Copy the modules around the model's own tensors, without caches, to run as traced."""
        return share_tensors(self.model, self.caches)

    def find_blocks(self, network: Network) -> Sequence[Block]:
        """List the residual blocks that can be removed whole, in the order in which they run.

        Raises:
            ModelError: the model is on the meta device; finding blocks takes a real forward pass.
        """
        otherwise = "cut channels only"
        leaves = list_tensors(self.model)
        check_values(leaves, self.example_inputs, caller="finding blocks", otherwise=otherwise)
        return find_blocks(network, self.to_run(), self.example_inputs)

    def configuration(self) -> TransformersConfiguration | None:
        """A Transformers model's configuration, queried for its widths; None for other models."""
        return configuration_of(self.model, self.example_inputs)

    def array(self, name: str) -> NDArray[np.generic]:
        """Copy a tensor's current values to NumPy; half precision becomes single.

        Raises:
            ModelError: the tensor is on the meta device, and has no values.
        """
        tensor = self.tensors[name].detach()
        if tensor.is_meta:
            self.check_values("a score")
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        values: NDArray[np.generic] = tensor.cpu().numpy()
        return values


def source_of(network: Network) -> TracedModel:
    """The traced PyTorch model behind a network."""
    if not isinstance(network.source, TracedModel):
        raise CutError(
            f"expected a network traced from PyTorch; received one from {network.source.framework}"
        )
    return network.source


@pause_garbage_collection()
def trace(
    model: nn.Module,
    example_inputs: object,
    *,
    outputs: OutputName | Sequence[OutputName] | None = None,
) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: model in train or eval mode, on any device. It is neither changed nor run: the trace
            runs a copy of its modules around the same tensors.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as its forward takes.
            With a batch of one, MACs are per example.
        outputs: names of the outputs that are used, such as ``"logits"`` or ``[0, "aux.boxes"]``;
            channels of the other outputs may be removed. None: all are used.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: its forward raises on these inputs, or it is not a module.
        UnknownNameError: the model has no output of such a name.

    Examples:
        >>> import torch, secateurs as sec
        >>> sec.trace(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)),
        ...           torch.rand(1, 3)).groups[0].name
        '0'
    """
    model = check_model(model)
    twin = share_tensors(model)
    network = _trace_with_fallback(twin, example_inputs, outputs)
    suspects = _cache_candidates(twin, network)
    if suspects:
        caches = forget_caches_(twin, *parse_example_inputs(example_inputs, twin), suspects)
        if caches:
            network = _trace_with_fallback(twin, example_inputs, outputs)
            network.caches = caches
    network.source = replace(source_of(network), model=model, caches=network.caches)
    return remember(model, network)


def _cache_candidates(model: nn.Module, network: Network) -> list[torch.Tensor]:
    """Floating-point tensors outside the model's state that may be caches of an earlier pass.

    These carry channels, or the trace never read them: a cache looked up by device, for example, is
    missed by a pass on tensors without data.
    """
    cut = {member.tensor for group in network.groups for member in group.members}
    state = {
        id(tensor)
        for _, module in list_modules(model)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    }
    return [
        tensor
        for name, tensor in source_of(network).tensors.items()
        if id(tensor) not in state
        and tensor.is_floating_point()
        and tensor.numel() > 1
        and (name in cut or not network.tensors[name].axes)
    ]


def _trace_with_fallback(
    model: nn.Module, example_inputs: object, outputs: OptionalOutputs
) -> Network:
    """Trace on tensors without data, or on real ones where the forward pass needs values."""
    try:
        return _trace_once(model, example_inputs, outputs)
    except ModelError as error:
        if isinstance(error.__cause__, KeyError | TypeError):  # may come from watching its integers
            with suppress(ModelError):
                return _trace_once(model, example_inputs, outputs, watch=False)
        if any(tensor.is_meta for tensor in model.parameters()):
            raise
        reason = error.__cause__
    network = _trace_once(model, example_inputs, outputs, concrete=True)
    network.source = replace(source_of(network), is_by_values=True)
    network.notes = (
        *network.notes,
        f"{BY_VALUES}: on tensors without data, {_describe_failure(reason)}. Where control flow in "
        "forward() depends on values, the path that these example inputs take is traced.",
    )
    return network


def _describe_failure(error: BaseException | None) -> str:
    """The exception, the line of the user's code that raised it, and its message."""
    message = (str(error).splitlines() or [""])[0][:120]
    line = "" if error is None else _at_line(error)
    return f"{type(error).__name__} is raised{line} ({message})"


def _trace_once(
    model: nn.Module,
    example_inputs: object,
    outputs: OptionalOutputs,
    *,
    concrete: bool = False,
    watch: bool = True,
) -> Network:
    """Trace the network on tensors without data or, with ``concrete``, on real ones.

    Real tensors are for models whose forward pass reads values. Where a value decides which
    operations run or how long a tensor is, later dry runs reuse the value read here. ``watch``:
    note which integers of the modules the pass reads; a model that writes one of them as it runs
    cannot be watched.
    """
    leaves = list_tensors(model)
    tracer = Tracer(leaves, rules, concrete)
    tracer.convolutions = {
        path for path, module in list_modules(model) if isinstance(module, CONVOLUTION)
    }
    reads = Reads(model, may_count if watch else lambda name, value: False)
    passes, wanted = _run_passes(model, tracer, reads, example_inputs, outputs)
    forward = passes[0]
    constrain_attention(model, leaves, tracer)
    siblings = (
        bind_siblings_(model, leaves, forward.operations, tracer.equations) if concrete else {}
    )
    operations = [*forward.operations, *operations_of(siblings, forward.operations)]
    tensors = {leaf.name: leaf.tensor for leaf in leaves}

    def build(
        sizes: Sequence[Size] = (), scalings: Sequence[Scaling] = (), ties: Sequence[Tie] = ()
    ) -> Network:
        found = layer_sizes_of(model, leaves, tracer.counts)
        sizes = [*sizes, *sizes_of_siblings(model, siblings, sizes)]
        scalings = [*scalings, *scalings_of_siblings(siblings, scalings)]
        source = TracedModel(model, example_inputs, operations, tensors, outputs=wanted)
        return _network(leaves, tracer, source, _merge_sizes(found, sizes), scalings, ties)

    network = (
        HardcodedSizes(model, tracer, passes, build).settle() if tracer.reads_sizes else build()
    )
    follow_unread_sizes_(model, network, passes, reads)
    for one in passes:
        for operation in one.operations:
            operation.operands = []
    return network


def _run_passes(
    model: nn.Module,
    tracer: Tracer,
    reads: Reads,
    example_inputs: object,
    outputs: OptionalOutputs,
) -> tuple[list[ForwardPass], tuple[str, ...] | None]:
    """(the pass in eval mode and, for layers that it leaves out, one in train mode; outputs used).

    The channels of the outputs that are used are frozen.
    """
    arguments, keywords = parse_example_inputs(example_inputs, model)
    with reads.watch():
        forward, given = _watch(tracer, model, arguments, keywords, training=False)
    wanted = check_names(outputs, [name for name, _ in given])
    _freeze_outputs(tracer, given, wanted)
    unused = [leaf for leaf in tracer.leaves.values() if leaf.is_parameter and not leaf.axes]
    if tracer.is_concrete or not any(leaf.can_carry_channels for leaf in unused):
        return [forward], wanted
    known = {name for name, _ in given}
    with reads.watch():
        trained = _in_training(tracer, model, arguments, keywords, wanted, known)
    return [forward, *trained], wanted


def _merge_sizes(known: Sequence[Size], sizes: Sequence[Size]) -> list[Size]:
    """Add the sizes found in the code to the known sizes of layers, which take precedence."""
    found = {(size.owner, size.attribute, size.position) for size in known}
    new = [size for size in sizes if (size.owner, size.attribute, size.position) not in found]
    return [*known, *new]


def _network(
    leaves: Sequence[ModelTensor],
    tracer: Tracer,
    source: TracedModel,
    sizes: Sequence[Size],
    scalings: Sequence[Scaling],
    ties: Sequence[Tie],
) -> Network:
    """Build the network from the solved equations."""
    return Network(
        [leaf.describe() for leaf in leaves],
        tracer.contractions,
        sizes,
        tracer.mixings,
        tracer.equations.solve(ties),
        source,
        name=type(source.model).__name__,
        scalings=scalings,
        multiples=tracer.multiples,
    )


def _freeze_outputs(
    tracer: Tracer,
    given: Sequence[tuple[str, torch.Tensor]],
    wanted: Sequence[str] | None,
    known: Collection[str] | None = None,
) -> None:
    """Freeze the outputs in use: a cut may not change them. The reason names the output.

    Args:
        tracer: tracer of this pass.
        given: outputs, by name.
        wanted: names of the outputs in use; None for all.
        known: for a pass in train mode, names of the outputs that eval mode gives too.
    """
    for name, tensor in given:
        if is_used(name, wanted):
            which = f" {name!r}" if name else ""
            when = "" if known is None or name in known else " in train mode"
            tracer.freeze(tensor, f"{NETWORK_OUTPUT}{which}{when}")
            tracer.freeze_positions(
                tensor, f"indices of these channels are in the network's output{which}{when}"
            )


def _of_lists(message: str) -> str:
    """How to pass a list as one input, where a model asks for a list, as detectors do."""
    return "; a list as one input is ([image],)" if "list" in message else ""


def _watch(
    tracer: Tracer,
    model: nn.Module,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    training: bool,
) -> tuple[ForwardPass, list[tuple[str, torch.Tensor]]]:
    """Run one forward pass under the tracer; return its record and its outputs, by name."""
    operations = tracer.start_pass()
    try:
        outputs = tracer.run(
            model,
            [map_tensors(value, tracer.follow_input) for value in arguments],
            {key: map_tensors(value, tracer.follow_input) for key, value in keywords.items()},
            training,
        )
    except Exception as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"{type(model).__name__}: its forward raised {type(error).__name__}{_at_line(error)}: "
            f"{message}. "
            f"Received example_inputs of {format_inputs(_original_inputs(arguments, keywords))}; "
            f"expected inputs the model accepts{_of_lists(message)}."
        ) from error
    forward = ForwardPass(
        [map_tensors(value, without_values) for value in arguments],
        {key: map_tensors(value, without_values) for key, value in keywords.items()},
        training,
        operations,
    )
    return forward, [(name, tracer.stand_in(tensor)) for name, tensor in named_outputs(outputs)]


def _at_line(error: BaseException) -> str:
    line = line_of(error)
    return "" if line == UNKNOWN_LINE else f" at {line}"


def _original_inputs(arguments: Sequence[object], keywords: Mapping[str, object]) -> object:
    if keywords:
        return {**{str(place): value for place, value in enumerate(arguments)}, **keywords}
    return arguments[0] if len(arguments) == 1 else arguments


def _in_training(
    tracer: Tracer,
    model: nn.Module,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    wanted: Sequence[str] | None,
    known: Collection[str],
) -> list[ForwardPass]:
    """Trace a pass in train mode, for layers that only training uses (auxiliary classifiers).

    These layers cost nothing at inference, so their contractions are not counted. The batch is
    doubled, since batch normalisation needs more than one value for each channel. Where the pass
    fails, the layers keep their size.
    """
    contractions, mixings = list(tracer.contractions), list(tracer.mixings)

    def double(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() else tensor

    try:
        forward, given = _watch(
            tracer,
            model,
            [map_tensors(value, double) for value in arguments],
            {key: map_tensors(value, double) for key, value in keywords.items()},
            training=True,
        )
        are_used = any(is_used(name, wanted) for name, _ in given)
        _freeze_outputs(tracer, given, wanted if are_used else None, known)
        passes = [forward]
    except ModelError:
        passes = []
    tracer.contractions, tracer.mixings = contractions, mixings
    return passes
