"""The proof of removed blocks: against the dense model with zeros in place of their branches.

The dense model runs as before, but in each sum of a removed block the branch counts as zero. Where
a block also normalises its skip, that normalisation is removed too: there the dense model's block
runs and its output is replaced by its input, and the proof says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._ops import OpOverload

from secateurs.channels.blocks import BlockCut, Numbering
from secateurs.channels.cut import Cut
from secateurs.channels.proof import Independent, Proof, largest_mismatch
from secateurs.channels.sampling import SAMPLES_EACH, flat_places_in
from secateurs.errors import CutError
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.proof.differences import TOLERANCE, largest_difference, precision_of
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.trace_model import TracedModel
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.blocks import FoundBlock, watch_blocks
from secateurs.pytorch.tracing.interpreter import OpInterpreter, in_mode
from secateurs.pytorch.tracing.op_call import iterate_tensors, map_tensors

NEVER_ZERO = ("running_var", "weight_v", "original1")
"""Tensors whose root or norm is a divisor."""

LayerSamples = dict[str, NDArray[np.float64]]


class _ZeroedBranches(OpInterpreter):
    """Runs a model with zeros for one operand of some additions.

    Args:
        branches: index of the addition -> which of its operands.
    """

    def __init__(self, branches: Mapping[int, int]) -> None:
        super().__init__(rules.is_whole)
        self._branches = branches

    def step(self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        which = self._branches.get(self.index)
        if which is None:
            return function(*arguments, **keywords)
        changed = list(arguments)
        if which == 0 and function._schema.is_mutable:
            changed[0].zero_()
        else:
            changed[which] = torch.zeros_like(changed[which])
        return function(*changed, **keywords)


def prove_blocks(
    source: TracedModel, small: nn.Module, blocks: Sequence[BlockCut], example_inputs: Any
) -> Proof:
    """Compare the model without blocks with the dense one whose branches are zeroed.

    Args:
        source: the traced dense model.
        small: the model without the blocks, otherwise uncut.
        blocks: removed blocks.
        example_inputs: inputs of the models' forward.

    Raises:
        CutError: the small model cannot run, or its outputs differ.
    """
    dense = source.to_run()
    found = {one.path: one for one in watch_blocks(source.to_run(), example_inputs)}
    silent: dict[int, int] = {}
    skipped: list[BlockCut] = []
    for block in blocks:
        known = found.get(block.owner)
        if known is None or known.norms:
            skipped.append(block)
        else:
            silent.update(known.branches)
    after = Numbering(blocks).after
    names = {
        name: new
        for name, _ in dense.named_modules()
        if name
        and not any(block.takes_with_it(name) for block in blocks)
        and (new := after(name)) is not None
    }
    twins, expected = _watch_run(dense, example_inputs, names, _ZeroedBranches(silent), skipped)
    try:
        ours, received = _watch_run(
            share_tensors(small), example_inputs, {new: new for new in names.values()}
        )
    except Exception as error:
        raise CutError(
            f"the model does not run without {_name_all(blocks)}: {type(error).__name__}: "
            f"{error}. Something else in the model uses them. Nothing was changed."
        ) from error
    proof = _compare(source, expected, received, twins, ours, _list_norms(skipped, found))
    if not proof.holds:
        raise CutError(proof.refusal(type(source.model).__name__, "An operation"))
    return proof


def _name_all(blocks: Sequence[BlockCut]) -> str:
    return ", ".join(block.owner for block in blocks)


def _list_norms(skipped: Sequence[BlockCut], found: Mapping[str, FoundBlock]) -> tuple[str, ...]:
    return tuple(
        f"{norm} on the skip of {block.owner}"
        for block in skipped
        if block.owner in found
        for norm in dict.fromkeys(found[block.owner].norms)
    )


def _compare(
    source: TracedModel,
    expected: Any,
    received: Any,
    twins: LayerSamples,
    ours: LayerSamples,
    inexact: tuple[str, ...],
) -> Proof:
    """Compare both models' outputs and samples; a mismatch is recorded, not raised."""
    try:
        difference, scale = largest_difference(
            source.select_used(received), source.select_used(expected)
        )
    except ValueError as error:
        raise CutError(
            "expected as many outputs without the blocks as with them; received another number. "
            "Name the outputs that you use: outputs=..., or use other blocks."
        ) from error
    if not math.isfinite(scale):
        raise CutError(
            "the dense model's output is not finite on these inputs; nothing can be proven. Check "
            "its weights and the example inputs."
        )
    relative = TOLERANCE.get(precision_of(source.model), 1e-4)
    both = [name for name in twins if name in ours and twins[name].shape == ours[name].shape]
    inside, where = largest_mismatch(
        both, [ours[name] for name in both], [twins[name] for name in both], 10 * relative
    )
    tolerance = relative * scale
    return Proof(difference, scale, tolerance, inside, 10 * relative, where, inexact)


def _watch_run(
    model: nn.Module,
    example_inputs: Any,
    names: Mapping[str, str],
    mode: OpInterpreter | None = None,
    skipped: Sequence[BlockCut] = (),
) -> tuple[LayerSamples, Any]:
    """(a sample of each module's first output, the model's outputs)."""
    samples: LayerSamples = {}

    def watching(name: str) -> Any:
        def watch(_: nn.Module, __: Any, output: Any) -> None:
            first = next(iterate_tensors(output), None)
            if name not in samples and first is not None and first.is_floating_point():
                with nullcontext() if mode is None else mode.aside():
                    places = torch.from_numpy(flat_places_in(tuple(first.shape), SAMPLES_EACH))
                    some = first.detach().take(places.to(first.device))
                    samples[name] = some.double().cpu().numpy().copy()

        return watch

    def passing(block: BlockCut) -> Any:
        def give_input(
            _: nn.Module, given: Sequence[Any], named: Mapping[str, Any], output: Any
        ) -> Any:
            x = named[block.keyword] if block.keyword in named else given[block.place]
            return (x, *output[1:]) if block.gives else x

        return give_input

    modules = dict(model.named_modules())
    arguments, keywords = _clone_inputs(example_inputs, model)
    with ExitStack() as stack, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in skipped:
            hook = modules[block.owner].register_forward_hook(passing(block), with_kwargs=True)
            stack.callback(hook.remove)
        for name, known_as in names.items():
            if name in modules and not isinstance(modules[name], torch.jit.ScriptModule):
                hook = modules[name].register_forward_hook(watching(known_as))
                stack.callback(hook.remove)
        if mode is not None:
            return samples, mode.run(model, arguments, keywords)
        with in_mode(model), torch.inference_mode():
            return samples, model(*arguments, **keywords)


def _clone_inputs(example_inputs: Any, model: nn.Module) -> tuple[Any, dict[str, Any]]:
    arguments, keywords = parse_example_inputs(example_inputs, model)
    given = map_tensors(list(arguments), lambda t: t.clone())
    return given, map_tensors(dict(keywords), lambda t: t.clone())


def prove_blocks_independently(
    model: nn.Module, small: nn.Module, blocks: Sequence[BlockCut], inputs: Any
) -> Independent:
    """Zero all parameters of the removed blocks in a copy of the dense model, and compare.

    This does not rely on how blocks were found: a branch whose weights are zero gives zero.

    Args:
        model: the dense model; unchanged.
        small: the model without the blocks.
        blocks: removed blocks, with nothing but the sums with their branches on their skips.
        inputs: inputs with values.

    Raises:
        CutError: the outputs differ.
    """
    zeroed = cut_copy(model, Cut()).eval()
    with torch.no_grad():
        for leaf in list_tensors(zeroed):
            names = (leaf.name, *leaf.aliases)
            goes = all(any(b.takes_with_it(name) for b in blocks) for name in names)
            is_divisor = leaf.name.rpartition(".")[2] in NEVER_ZERO
            if goes and leaf.tensor.is_floating_point() and not is_divisor:
                leaf.tensor.zero_()
    _, expected = _watch_run(share_tensors(zeroed), inputs, {})
    _, received = _watch_run(share_tensors(small), inputs, {})
    difference, scale = largest_difference(received, expected)
    tolerance = TOLERANCE.get(precision_of(model), 1e-4) * scale
    if not difference <= tolerance:
        raise CutError(
            f"{type(model).__name__}: with all weights of {_name_all(blocks)} at zero the dense "
            "model does not do what the small one does: expected a largest difference of "
            f"{tolerance:.2g} or less, received {difference:.2g}. The cut was not made. Use other "
            "blocks, or proof=True, and please report it."
        )
    return Independent(0, difference, scale, tolerance)
