"""Save and load models: in Keras's format, or as safetensors with the cut inside. No pickle."""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import cut_from_metadata, metadata
from secateurs.channels.proof import CutReport, cut_of, keep_report_
from secateurs.deployment.sessions import first_line
from secateurs.errors import CheckpointError
from secateurs.files import (
    check_tensor_names,
    check_tensor_shape,
    read_bytes,
    seal,
    unpack_safetensors,
    write_atomically,
)
from secateurs.keras.model.example_inputs import check_model
from secateurs.keras.model.matching import match_names
from secateurs.keras.model.tensors import list_tensors, named_operations
from secateurs.keras.reading_back import check_comes_back
from secateurs.keras.surgery.rebuilding import cut_copy, finalize_
from secateurs.keras.surgery.shrinking import is_shrunk

CUT_INSIDE = "secateurs.json"
"""Name of the cut's entry in a ``.keras`` archive; Keras ignores it."""


def save(model: keras.Model, path: str | Path) -> None:
    """Write a model's weights, and the cut that leads to it from the dense model.

    Args:
        model: model to save, cut or not.
        path: output file, written atomically. A path ending in ``.keras`` is written in Keras's
            format, which ``keras.saving.load_model`` reads without Secateurs; any other as
            safetensors.

    Raises:
        CheckpointError: the path ends in ``.keras``, and either the configuration of a cut layer
            cannot express its new sizes, or a user-defined layer loads back with other outputs.
        StudyError: the file cannot be written.
    """
    path = Path(path)
    cut = cut_of(model)
    cut_inside = [name for name, layer in named_operations(model) if is_shrunk(layer)]
    if path.suffix == ".keras" and cut_inside:
        raise CheckpointError(
            f"{path}: expected a model that Keras can build from its configuration; that of "
            f"{cut_inside[0] or model.name} does not contain the sizes that a cut left inside it. "
            f"Save it as {path.with_suffix('.safetensors').name} and load it with "
            "secateurs.load(dense_model, ...)"
        )
    if path.suffix == ".keras":
        write_atomically(path, _keras_bytes(model, cut, path))
    else:
        state = {leaf.name: _make_contiguous(leaf.array()) for leaf in list_tensors(model)}
        write_atomically(path, seal(save_tensors(state, metadata(cut))))


def load(model: keras.Model | None, path: str | Path, *, ema: bool = False) -> keras.Model:
    """Load what ``save`` wrote into a freshly built dense model.

    Args:
        model: dense model, built as before; unchanged. A ``.keras`` file holds the whole model and
            needs none.
        path: file written by ``save``, or any safetensors file of the model's weights.
        ema: must be False: a Keras optimizer writes averaged weights into the model itself.

    Returns:
        A new model, cut like the saved one, with its weights.

    Raises:
        CheckpointError: the file is corrupted, was not written for such a model, or does not fit.
    """
    path = Path(path)
    if ema:
        raise CheckpointError(
            f"{path}: ema: expected False for a Keras model; its optimizer puts averaged weights "
            "into the model (use_ema=True), which is then saved with them"
        )
    if path.suffix == ".keras":
        made, cut = _load_keras(path)
    else:
        state, cut = _rename_to_model(check_model(model), *read(path))
        made = cut_copy(model, cut)
        _fill_(made, state, path)
    if cut:
        keep_report_(made, CutReport(cut))
    return made


def _keras_bytes(model: keras.Model, cut: Cut, path: Path) -> bytes:
    """Write a model in Keras's format, check that it loads back, and add the cut."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.keras"
        try:
            model.save(whole)
        except Exception as error:
            raise CheckpointError(
                f"{path}: expected a model that Keras can write; it raised "
                f"{type(error).__name__}: {first_line(error)}. Save it as "
                f"{path.with_suffix('.safetensors').name}"
            ) from error
        check_comes_back(model, whole, path)
        if cut:
            with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(CUT_INSIDE, cut.to_json())
        return whole.read_bytes()


def _load_keras(path: Path) -> tuple[keras.Model, Cut]:
    try:
        made = keras.saving.load_model(path)
        with zipfile.ZipFile(path) as archive:
            inside = CUT_INSIDE in archive.namelist()
            text = archive.read(CUT_INSIDE).decode() if inside else None
    except Exception as error:
        raise CheckpointError(f"{path}: {_explain_unreadable(path, error)}") from error
    return made, Cut() if text is None else Cut.from_json(text)


def _explain_unreadable(path: Path, error: Exception) -> str:
    """Explain why Keras cannot load a file, and what to do about it.

    Keras calls a file that is there but is no archive "not found", and begins its report of a class
    that is not registered with a guess at another cause.
    """
    if not path.exists():
        return "no such file"
    if not zipfile.is_zipfile(path):
        found = "a directory" if path.is_dir() else "no zip archive, or only part of one"
        return f"expected a .keras file, as model.save writes it; it is {found}"
    missing = _NOT_LOCATED.search(str(error))
    if missing is not None:
        return (
            f"expected classes that are registered; {missing[1]} is not. Decorate it with "
            "@keras.saving.register_keras_serializable() and import its module before the file is "
            "loaded; on a command line, name a function that does both: FILE.py:FUNCTION"
        )
    first = (str(error).splitlines() or [""])[0]
    return f"expected a .keras file; it cannot be loaded ({type(error).__name__}: {first})"


_NOT_LOCATED = re.compile(r"Could not locate (?:class|function) '([^']+)'")
"""How Keras names a class or a function that a file needs and that is not registered."""


def read(path: str | Path) -> tuple[dict[str, NDArray[np.generic]], Cut]:
    """A file's tensors, and the cut stored in it (an empty cut where there is none)."""
    path = Path(path)
    content = read_bytes(path)
    expected = f"{path}: expected a safetensors or a .keras file"
    state, text = unpack_safetensors(content, load_tensors, expected)
    return state, cut_from_metadata(text)


def _rename_to_model(
    model: keras.Model, state: dict[str, NDArray[np.generic]], cut: Cut
) -> tuple[dict[str, NDArray[np.generic]], Cut]:
    """Rename a file's tensors and cut to the model's automatic layer names.

    Names that already fit, or cannot be matched, are left as they are.
    """
    mine = {name for leaf in list_tensors(model) for name in (leaf.name, *leaf.aliases)}
    gone = {layer for block in cut.blocks for layer in block.layers}
    theirs = {*state, *cut.tensors}
    whole = theirs | {name for name in mine if any(b.takes_with_it(name) for b in cut.blocks)}
    if theirs <= mine <= whole:
        return state, cut
    rename = match_names(model, theirs, gone)
    if rename is None:
        return state, cut
    return {rename(name): values for name, values in state.items()}, cut.rename(rename)


def _make_contiguous(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.asarray(values, order="C")  # np.ascontiguousarray would turn a scalar into shape (1,)


def _fill_(model: keras.Model, state: dict[str, NDArray[np.generic]], path: Path) -> None:
    leaves = {leaf.name: leaf for leaf in list_tensors(model)}
    missing = [name for name in leaves if name not in state]
    # The order of tensors in a file is arbitrary.
    foreign = sorted(name for name in state if name not in leaves)
    check_tensor_names(path, model.name, missing, foreign, ", with the same layer names")
    for name, leaf in leaves.items():
        check_tensor_shape(path, name, leaf.shape, state[name].shape)
    for name, leaf in leaves.items():
        leaf.variable.assign(state[name])
    finalize_(model)
