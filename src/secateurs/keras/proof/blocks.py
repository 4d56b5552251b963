"""The proof of removed blocks: against the dense model with zeros in place of their branches.

The dense model runs unchanged, except that the branch is zero at each sum of a removed block. Where
a block also normalises its skip, that normalisation is removed too: there the dense model's
normalisation returns its input, and the proof says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.channels.proof import TOLERANCE, Independent, Proof, largest_mismatch
from secateurs.channels.sampling import SAMPLES_EACH, places_in
from secateurs.errors import CutError
from secateurs.keras.internals import pick_flat, without_gradients
from secateurs.keras.model.example_inputs import pack_inputs
from secateurs.keras.model.nested import flatten, map_structure
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.proof.differences import as_numbers, largest_difference, precision_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.tracing.blocks import FoundBlock, watch_blocks
from secateurs.keras.tracing.interpreter import CallSite, OpInterpreter, call_layer, convert_arrays

NEVER_ZERO = ("moving_variance",)
"""Variables whose square root divides, and which therefore must not be zero."""

InputArrays = Sequence[NDArray[np.generic]]
LayerSamples = dict[tuple[str, int], NDArray[np.number]]


class _ZeroedBranches:
    """Step function that runs each call, with zeros for the branch of the given sums.

    Args:
        branches: index of a sum's call -> position of the operand that is a branch.
        passing: indices of calls that return their input instead.

    Attributes:
        samples: (path of a layer, number of its earlier calls) -> sampled output values.
    """

    def __init__(self, branches: Mapping[int, int], passing: Collection[int] = frozenset()) -> None:
        self._branches, self._passing = branches, passing
        self._times: Counter[str] = Counter()
        self.samples: LayerSamples = {}

    def __call__(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        given: tuple[object, object] = (list(arguments), dict(keywords))
        if (which := self._branches.get(site.index)) is not None:
            branch = _tensors_in(given)[which]
            given = map_structure(partial(_zero_branch, branch), given)
        if site.index in self._passing:
            made: object = _tensors_in(given)[0]
        else:
            made = call_layer(site.operation, *given)  # type: ignore[arg-type]
        key = site.path, self._times[site.path]
        self._times[site.path] += 1
        first = flatten(made)[0]
        # Operations created by a layer's code have no unique paths.
        if not site.written and "float" in keras.backend.standardize_dtype(first.dtype):
            shape = tuple(first.shape)
            index = np.ravel_multi_index(places_in(shape, SAMPLES_EACH), shape) if shape else [0]
            self.samples[key] = as_numbers(pick_flat(first, np.asarray(index)))
        return made


def _tensors_in(structure: object) -> list[object]:
    return [item for item in flatten(structure) if hasattr(item, "shape")]


def _zero_branch(branch: object, item: object) -> object:
    return keras.ops.zeros_like(item) if item is branch else item


def prove_blocks(
    model: keras.Model, small: keras.Model, blocks: Sequence[BlockCut], arrays: InputArrays
) -> Proof:
    """Compare the model without blocks with the dense one whose branches are zeroed.

    Args:
        model: dense model.
        small: model without the blocks, and without any other cut.
        blocks: removed blocks.
        arrays: flat list of inputs.

    Raises:
        CutError: a block is not found in a forward pass on these inputs, or the outputs differ.
    """
    found = _find_blocks(model, blocks, arrays)
    branches = {n: at for one in found for n, at in one.branches.items()}
    passing = {n for one in found for n in one.norms}
    expected, twins = _run(model, _ZeroedBranches(branches, passing), arrays)
    try:
        received, ours = _run(small, _ZeroedBranches({}), arrays)
        whole = _run_whole(small, arrays)
    except Exception as error:
        raise CutError(
            f"{model.name}: the model does not run without {_name_all(blocks)}: "
            f"{type(error).__name__}: {error}. Nothing was changed."
        ) from error
    difference, scale = largest_difference(received, expected)
    if not math.isfinite(scale):
        raise CutError(
            f"{model.name}: the dense model's output is not finite on these inputs; nothing can be "
            "proven. Check its weights and the example inputs."
        )
    difference = max(difference, largest_difference(whole, expected)[0])
    relative = TOLERANCE[precision_of(model)]
    inside, where = _compare_samples(ours, twins, 10 * relative)
    inexact = tuple(dict.fromkeys(norm for one in found for norm in one.inexact))
    proof = Proof(difference, scale, relative * scale, inside, 10 * relative, where, inexact)
    if not proof.holds:
        raise CutError(proof.refusal(model.name, "A layer"))
    return proof


def _find_blocks(
    model: keras.Model, blocks: Sequence[BlockCut], arrays: InputArrays
) -> list[FoundBlock]:
    """Return these blocks as found in a forward pass."""
    found = {one.cut: one for one in watch_blocks(model, arrays)}
    unknown = [block.owner for block in blocks if block not in found]
    if unknown:
        raise CutError(
            f"{unknown[0]}: expected a block of {model.name} as network.blocks lists them; on "
            "these inputs it is not one. Trace the model that is to be cut, and use its blocks."
        )
    return [found[block] for block in blocks]


def _compare_samples(
    ours: LayerSamples, twins: LayerSamples, tolerance: float
) -> tuple[float, str]:
    """Return (largest difference between the models' samples, layer where it occurs)."""
    both = [key for key in twins if key in ours and twins[key].shape == ours[key].shape]
    return largest_mismatch(
        [path for path, _ in both],
        [ours[key] for key in both],
        [twins[key] for key in both],
        tolerance,
    )


def prove_blocks_independently(
    model: keras.Model, small: keras.Model, blocks: Sequence[BlockCut], arrays: InputArrays
) -> Independent:
    """Zero all variables of the removed blocks in a copy of the dense model, and compare.

    This does not depend on how blocks are found: a branch whose weights are all zero returns zero.

    Args:
        model: dense model; unchanged.
        small: model without the blocks.
        blocks: removed blocks, with nothing but the sums with their branches on their skips.
        arrays: flat list of inputs.

    Raises:
        CutError: the outputs differ.
    """
    zeroed = cut_copy(model, Cut(), compiled=False)
    for leaf in list_tensors(zeroed):
        names = (leaf.name, *leaf.aliases)
        goes = all(any(block.takes_with_it(name) for block in blocks) for name in names)
        is_float = keras.backend.is_float_dtype(leaf.variable.dtype)
        if goes and is_float and leaf.name.rpartition(".")[2] not in NEVER_ZERO:
            leaf.variable.assign(keras.ops.zeros_like(leaf.variable.value))
    expected, received = (_run_whole(one, arrays) for one in (zeroed, small))
    difference, scale = largest_difference(received, expected)
    tolerance = TOLERANCE[precision_of(model)] * scale
    if not difference <= tolerance:
        raise CutError(
            f"{model.name}: with all weights of {_name_all(blocks)} at zero the dense model does "
            f"not do what the small one does: expected a largest difference of {tolerance:.2g} or "
            f"less, received {difference:.2g}. The cut was not made. Use other blocks, or "
            "proof=True, and please report it."
        )
    return Independent(0, difference, scale, tolerance)


def _name_all(blocks: Sequence[BlockCut]) -> str:
    return ", ".join(block.owner for block in blocks)


def _run(
    model: keras.Model, step: _ZeroedBranches, arrays: InputArrays
) -> tuple[list[NDArray[np.number]], LayerSamples]:
    """Run the model call by call; return (outputs, samples of its calls)."""
    with without_gradients():
        outputs: list[BackendTensor] = OpInterpreter(step).run(model, convert_arrays(model, arrays))
    return [as_numbers(one) for one in outputs], step.samples


def _run_whole(model: keras.Model, arrays: InputArrays) -> list[NDArray[np.number]]:
    """Run the model by a normal call, as a user does, and return its outputs."""
    with without_gradients():
        given = pack_inputs(model, convert_arrays(model, arrays))
        return [as_numbers(one) for one in flatten(model(given, training=False))]
