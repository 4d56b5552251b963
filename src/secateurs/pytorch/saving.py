"""Save and load models as safetensors files that hold the cut; pickle is never written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import cut_from_metadata, metadata
from secateurs.channels.proof import CutReport, cut_of, keep_report_
from secateurs.errors import CheckpointError, ModelError
from secateurs.files import (
    check_tensor_names,
    check_tensor_shape,
    is_safetensors,
    read_bytes,
    seal,
    unpack_safetensors,
    write_atomically,
)
from secateurs.pytorch.checkpoints import fit_names, tensors_in
from secateurs.pytorch.huggingface import describe_cut_
from secateurs.pytorch.model.example_inputs import check_model
from secateurs.pytorch.model.tensors import check_values, list_tensors
from secateurs.pytorch.model.wrapped_parts import plain_names, present_names
from secateurs.pytorch.surgery.slicing import cut_copy


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights, and the cut that leads to it from the dense model.

    Args:
        model: model, cut or not. Of a wrapper (``DataParallel``, ``AveragedModel``, a
            ``torch.compile`` result), the model inside is saved. Cuts of its submodules are
            included.
        path: the file; written atomically.

    Raises:
        ModelError: the model is scripted, quantised or sharded, or holds what a safetensors file
            cannot (extra state, complex128).
        StudyError: the file cannot be written.
    """
    model = check_model(model)
    alone = "write the cut alone (report_of(model).cut.save)"
    check_values(list_tensors(model), (), caller="saving", otherwise=alone)
    state = model.state_dict(keep_vars=True)  # keeps identity, so that tied tensors are found
    check_state(type(model).__name__, state)
    plain = plain_names(model)
    state = {plain(name): tensor for name, tensor in state.items()}
    write_atomically(Path(path), to_bytes(state, metadata(cut_of(model).rename(plain))))


def load(model: nn.Module, path: str | Path, *, ema: bool = False) -> nn.Module:
    """Load what ``save`` wrote into a freshly built dense model.

    Args:
        model: the dense model, built as before; unchanged. A wrapper around it is removed.
        path: a file that ``save`` wrote, any safetensors file of the model's weights, or a plain
            PyTorch checkpoint (read with ``weights_only=True``) of a training script or of
            Lightning; name prefixes of DataParallel or ``torch.compile`` are removed.
        ema: take a checkpoint's averaged weights.

    Returns:
        A new model, cut as the saved one was, with its weights.

    Raises:
        ModelError: the model is scripted, quantised or sharded.
        CheckpointError: the file is corrupted, foreign, or does not fit the model.
    """
    state, cut = read(path, ema=ema)
    model = check_model(model)
    cut = cut.rename(present_names(model))
    made = cut_copy(model, cut)
    present, plain = made.state_dict(), plain_names(made)
    names = {plain(name): name for name in present}
    state = {name if name in present else names.get(name, name): state[name] for name in state}
    state = fit_names(state, present, getattr(made, "own_name", None))
    _leave_meta_(made)
    _fill_(made, state, Path(path))
    check_values(
        list_tensors(made),
        (),
        caller="loading",
        otherwise="build the model on a device with values",
    )
    if cut.blocks or cut.fields:
        describe_cut_(made, cut)
    if cut:
        keep_report_(made, CutReport(cut))
    return made


def read(path: str | Path, *, ema: bool = False) -> tuple[dict[str, torch.Tensor], Cut]:
    """A file's tensors, and the cut stored in it (an empty cut where there is none)."""
    path = Path(path)
    content = read_bytes(path)
    if _looks_like_torch(content):
        return _read_torch(path, ema), Cut()
    expected = f"{path}: expected a safetensors file or a PyTorch checkpoint"
    state, metadata = unpack_safetensors(content, load_tensors, expected)
    return state, cut_from_metadata(metadata)


def to_bytes(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file; a tensor under several names is written once."""
    return seal(save_tensors(_distinct(state), dict(metadata)))


def check_state(name: str, state: Mapping[str, object]) -> None:
    """Refuse a state that a safetensors file cannot hold: it would be lost, or not read back.

    Args:
        name: name of the model, for the message.
        state: the model's ``state_dict``.

    Raises:
        ModelError: the state has such an entry; the message says what to do.
    """
    for key, value in state.items():
        if key.rpartition(".")[2] == _EXTRA_STATE or not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{name}: expected a state of tensors alone; received {key} of "
                f"{type(value).__name__}, which get_extra_state gives. Keep it in a buffer "
                "(register_buffer), or in the model's own arguments."
            )
        if value.dtype is torch.complex128:
            raise ModelError(
                f"{name}: expected numbers that a safetensors file holds; {key} is complex128. "
                "Convert it (to complex64), or keep its two parts (torch.view_as_real)."
            )
        if key == _RESERVED:
            raise ModelError(
                f"{name}: expected tensors with other names; {key!r} is reserved in safetensors "
                "files. Rename it."
            )


_EXTRA_STATE, _RESERVED = "_extra_state", "__metadata__"


def _distinct(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor once, under its first name; two views of one memory are cloned apart.

    Ties are found by identity. Two tensors that merely share memory are two entries, since a copy
    of a model separates them too.
    """
    names: dict[int, str] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    places: set[int] = set()
    kept: dict[str, torch.Tensor] = {}
    for name in names.values():
        tensor = state[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        place = tensor.untyped_storage().data_ptr()
        kept[name] = tensor.clone() if place in places else tensor
        places.add(place)
    return kept


def _looks_like_torch(content: bytes) -> bool:
    """Whether the content is a zip archive, or the pickle that PyTorch wrote before 1.6."""
    if is_safetensors(content):  # its first bytes, a header length, may equal a pickle's
        return False
    is_pickle = content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return content[:4] == b"PK\x03\x04" or is_pickle


def _read_torch(path: Path, ema: bool = False) -> dict[str, torch.Tensor]:
    """Read a PyTorch checkpoint with ``weights_only=True``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle formats
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Only the first sentence of PyTorch's message: it goes on to advise loading without
        # weights_only.
        message = str(error) or type(error).__name__
        reason = message.partition(". ")[0].splitlines()[0]
        raise CheckpointError(
            f"{path}: expected a checkpoint of plain tensors; it cannot be read with "
            f"weights_only=True ({reason}). Save the model's state_dict() instead of the model."
        ) from error
    return tensors_in(content, str(path), ema=ema)


def _fill_(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy a state into a model of the same names and shapes; of tied tensors one name suffices."""
    present = model.state_dict()
    tied = _names_of_same_tensor(present)
    missing = [
        name for name in present if name not in state and not any(t in state for t in tied[name])
    ]
    foreign = [name for name in state if name not in present]
    check_tensor_names(path, type(model).__name__, missing, foreign)
    for name in present:
        if name in state:
            check_tensor_shape(path, name, present[name].shape, state[name].shape)
    with torch.no_grad():
        for name, tensor in state.items():
            _copy_(present[name], tensor, path, name)


def _copy_(present: torch.Tensor, tensor: torch.Tensor, path: Path, name: str) -> None:
    try:
        present.copy_(tensor)
    except RuntimeError as error:  # an expanded tensor: several elements share one memory
        raise CheckpointError(
            f"{path}: {name}: expected a tensor of the model that can be written to; received one "
            "that repeats its values (expand). Build it with values of its own: tensor.clone()."
        ) from error


def _names_of_same_tensor(state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Name -> all names of the same tensor."""
    by_place: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in state.items():
        by_place.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return {name: by_place[tensor.data_ptr(), tensor.shape] for name, tensor in state.items()}


def _leave_meta_(model: nn.Module) -> None:
    """Allocate CPU memory for those of the model's tensors that are on the meta device."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        lasting = {
            name for name in module._buffers if name not in module._non_persistent_buffers_set
        }
        for holder, names in ((module._parameters, module._parameters), (module._buffers, lasting)):
            for name in names:
                tensor = holder[name]
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in made:
                    empty = torch.empty_like(tensor, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = (
                        nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                    )
                holder[name] = made[id(tensor)]  # type: ignore[assignment]
