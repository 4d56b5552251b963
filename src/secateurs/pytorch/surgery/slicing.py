"""Make a cut: a new model of smaller tensors and sizes. The user's model is unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.arguments import takes_as_annotated
from secateurs.channels.blocks import Numbering
from secateurs.channels.cut import Cut, Rescaling, SizeChange, TensorCut
from secateurs.errors import CutError, SecateursError
from secateurs.pytorch.model.attributes import Attribute, read_number, write_
from secateurs.pytorch.model.copies import copy_modules, empty_caches_, list_modules
from secateurs.pytorch.model.tensors import ModelTensor, list_tensors
from secateurs.pytorch.surgery.bypass import remove_blocks_


def cut_copy(
    model: nn.Module,
    cut: Cut,
    *,
    without_data: bool = False,
    leaves: Sequence[ModelTensor] | None = None,
) -> nn.Module:
    """Copy the model with the cut made; cut tensors are sliced without a full copy first.

    Args:
        model: model to cut; unchanged.
        cut: cut planned for this model, or for another with the same architecture.
        without_data: put the floating-point tensors on the meta device.
        leaves: tensors of the model, if they are listed already and the cut is known to fit them.

    Raises:
        CutError: a tensor or layer that the cut names is missing, or has another size.
    """
    if leaves is None:
        leaves = list_tensors(model)
        check_tensors(leaves, cut)
    # Tensors made in inference mode could never be trained.
    with torch.inference_mode(False):
        return _cut_copy(model, cut, leaves, without_data)


def _cut_copy(
    model: nn.Module, cut: Cut, leaves: Sequence[ModelTensor], without_data: bool
) -> nn.Module:
    # deepcopy takes an object's replacement from the memo, so ties between tensors are preserved.
    memo: dict[int, object] = {}
    slicer = Slicer()
    rescaled = {rescaling.tensor for rescaling in cut.rescalings}
    for leaf in leaves:
        if (
            leaf.name in cut.tensors
            or leaf.name in rescaled
            or (without_data and leaf.can_carry_channels)
        ):
            memo[id(leaf.tensor)] = _cut_tensor(leaf, cut, without_data, slicer)
        elif (
            leaf.tensor.grad_fn is not None
        ):  # a non-leaf tensor kept as an attribute, which deepcopy refuses
            memo[id(leaf.tensor)] = leaf.tensor.detach().clone()
    small = copy_modules(model, memo)
    empty_caches_(small, cut.caches)
    set_sizes_(small, cut.sizes)
    remove_blocks_(small, cut.blocks)
    return small


def check_tensors(leaves: Iterable[ModelTensor], cut: Cut) -> None:
    """Refuse a cut of tensors that are missing or have another shape.

    Raises:
        CutError: a tensor does not fit; the message names it.
    """
    shapes = {leaf.name: tuple(leaf.tensor.shape) for leaf in leaves}
    for name, tensor_cut in cut.tensors.items():
        if name not in shapes:
            raise CutError(
                f"{name}: expected a tensor of shape {tensor_cut.shape}; the model has none of "
                f"this name. "
                "Apply the cut to the model it was planned for, or to one built alike."
            )
        if shapes[name] != tensor_cut.shape:
            raise CutError(
                f"{name}: expected shape {tensor_cut.shape}; received a model with shape "
                f"{shapes[name]}. "
                "Apply the cut to the model it was planned for, or to one built alike."
            )


def _cut_tensor(leaf: ModelTensor, cut: Cut, without_data: bool, slicer: Slicer) -> torch.Tensor:
    """The tensor after the cut: sliced, rescaled, and a parameter again if it was one."""
    whole = leaf.tensor.detach()
    removal = cut.tensors.get(leaf.name) or TensorCut(tuple(whole.shape), {})
    if without_data:
        small = torch.empty(removal.shape_after, dtype=whole.dtype, device="meta")
    else:
        small = slicer.slice(whole, removal) if removal.removed else whole.clone()
        for rescaling in cut.rescalings:
            if rescaling.tensor == leaf.name:
                _rescale_(small, removal, rescaling)
    if leaf.is_parameter:
        return nn.Parameter(small, requires_grad=leaf.tensor.requires_grad)
    if leaf.tensor.requires_grad and leaf.tensor.is_leaf:
        small.requires_grad_()
    return small


def slice_tensor(tensor: torch.Tensor, cut: TensorCut) -> torch.Tensor:
    """A new tensor without the removed indices, in the same memory layout."""
    return Slicer().slice(tensor, cut)


class Slicer:
    """Slices tensors; axes that lose the same indices share one computation of the kept ones.

    A layer's filters, its bias, its norm and whatever reads them lose the same tuple of indices.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[object, NDArray[np.int64], torch.Tensor]] = {}

    def slice(self, tensor: torch.Tensor, cut: TensorCut) -> torch.Tensor:
        """A new tensor without the removed indices, in the same memory layout."""
        small = tensor
        for axis in sorted(
            cut.removed
        ):  # leading axes first: slicing them copies whole rows, and leaves less to slice
            small = _keep(small, axis, *self._list_kept(cut, axis))
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            return small.contiguous(memory_format=torch.channels_last)
        return small

    def _list_kept(self, cut: TensorCut, axis: int) -> tuple[NDArray[np.int64], torch.Tensor]:
        removed = cut.removed[axis]
        key = (id(removed), cut.shape[axis])
        if key not in self._kept:
            kept = cut.list_kept(axis)
            # Holding the tuple keeps its id from being reused for another object.
            self._kept[key] = (removed, kept, torch.from_numpy(kept))
        _, kept, index = self._kept[key]
        return kept, index


def _rescale_(small: torch.Tensor, removal: TensorCut, rescaling: Rescaling) -> None:
    """Multiply the entries left at a rescaling's indices by its factor."""
    kept = removal.list_kept(rescaling.axis)
    places = np.flatnonzero(np.isin(kept, rescaling.indices))
    index = torch.from_numpy(places).to(small.device)
    part = small.index_select(rescaling.axis, index)
    small.index_copy_(rescaling.axis, index, part * rescaling.factor)


def _keep(
    tensor: torch.Tensor, axis: int, kept: NDArray[np.int64], index: torch.Tensor
) -> torch.Tensor:
    """``index_select`` in blocks of neighbouring indices, where whole blocks are kept.

    After a flatten, one channel is many neighbouring inputs; copying them block by block is ten
    times faster than one by one.
    """
    # For a vector (a bias, a norm's weight) finding blocks takes longer than the copy.
    is_last = tensor.dim() == axis + 1 > 1
    block = _block_length(kept, tensor.shape[axis]) if is_last else 1
    if block == 1:
        return tensor.index_select(axis, index.to(tensor.device))
    index = torch.from_numpy(kept[::block] // block).to(tensor.device)
    shape = tensor.shape
    blocks = tensor.reshape(*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])
    return blocks.index_select(axis, index).flatten(axis, axis + 1)


def _block_length(kept: NDArray[np.int64], length: int) -> int:
    """The longest block such that an axis of this length keeps or loses whole blocks only."""
    starts = np.flatnonzero(np.diff(kept, prepend=-2) != 1)
    lengths = np.diff(np.append(starts, len(kept)))
    return int(np.gcd.reduce([*kept[starts], *lengths, length]))


def set_sizes_(model: nn.Module, sizes: Iterable[SizeChange]) -> None:
    """Write the sizes that layers keep as integers.

    A cut comes from a file, so it may change nothing but integers that the modules keep, and only
    where they have the value it expects.

    Raises:
        CutError: a layer does not have the size that the cut expects.
    """
    modules = dict(list_modules(model))
    for size in sizes:
        # One lookup here: get_submodule, called twice for each size, would take most of the time.
        holder = modules.get(size.owner)
        inside = "" if holder is not None else size.owner
        holder = model if holder is None else holder
        place = Attribute(inside, size.attribute, size.position)
        value = read_number(holder, place)
        if value is None or value != size.before:
            name = f"{size.owner}.{size.attribute}".lstrip(".")
            found = "none there" if value is None else str(value)
            raise CutError(
                f"{name}: expected a whole number of {size.before}; received a model with {found}. "
                "Apply the cut to the model it was planned for, or to one built alike."
            )
        write_(holder, place, size.after)


@takes_as_annotated(SecateursError)
def cut_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    small: nn.Module,
    cut: Cut,
    leaves: Sequence[ModelTensor] | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of the cut model: same settings, state (momentum, ...) sliced likewise.

    State that has neither the parameter's shape nor a single element is dropped; the optimizer
    initialises it again.

    Args:
        optimizer: optimizer of the model; unchanged.
        model: model before the cut.
        small: model after the cut.
        cut: the cut that was made.
        leaves: tensors of the model, if they are listed already.

    Raises:
        CutError: the optimizer trains other parameters, or holds them outside its groups, as
            ``LBFGS`` does, whose state is of all parameters at once.
    """
    mine = {id(leaf.tensor): leaf.name for leaf in leaves or list_tensors(model)}
    before = Numbering(cut.blocks).before
    theirs = {before(leaf.name): leaf.tensor for leaf in list_tensors(small)}
    _check_state_is_by_parameter(optimizer, mine)
    memo: dict[int, object] = {}
    stale: list[torch.Tensor] = []
    gone: list[torch.Tensor] = []
    for name, parameter in _name_parameters(optimizer, mine):
        if name not in theirs and any(b.takes_with_it(name) for b in cut.blocks):
            gone.append(nn.Parameter(torch.zeros(())))
            memo[id(parameter)] = gone[-1]
            continue
        memo[id(parameter)] = theirs[name]
        if not _slice_state(
            optimizer.state.get(parameter, {}), parameter, cut.tensors.get(name), memo
        ):
            stale.append(theirs[name])
    carried = copy.deepcopy(optimizer, memo)
    for parameter in [*stale, *gone]:
        carried.state.pop(parameter, None)
    _drop_parameters_(carried, gone)
    return carried


def _check_state_is_by_parameter(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> None:
    for name, value in vars(optimizer).items():
        held = value if isinstance(value, list | tuple) else ()
        if name != "param_groups" and any(id(one) in names for one in held):
            kind = type(optimizer).__name__
            raise CutError(
                f"expected an optimizer whose state is of one parameter each; received {kind}, "
                f"which keeps all of them in {name}. Leave optimizer= out, and make a new {kind} "
                "of the small model's parameters"
            )


def _name_parameters(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, parameter) of all that an optimizer trains, by the names of a model's tensors."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise CutError(
                    f"expected an optimizer of this model's parameters; it holds one of shape "
                    f"{tuple(parameter.shape)} that the model does not have"
                )
            yield names[id(parameter)], parameter


def _drop_parameters_(optimizer: torch.optim.Optimizer, gone: Sequence[torch.Tensor]) -> None:
    for group in optimizer.param_groups if gone else ():
        group["params"] = [p for p in group["params"] if not any(p is one for one in gone)]


def _slice_state(
    state: dict[str, object],
    parameter: torch.Tensor,
    cut: TensorCut | None,
    memo: dict[int, object],
) -> bool:
    """Enter the sliced state into the memo; False where some of it cannot be sliced."""
    for value in state.values() if cut is not None else ():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            memo[id(value)] = slice_tensor(value, cut)  # type: ignore[arg-type]
        elif isinstance(value, torch.Tensor) and value.numel() > 1:
            return False
    return True
