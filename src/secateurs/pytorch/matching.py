"""Find the model that a file's weights belong to, where they do not fit the named one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from secateurs.errors import CheckpointError, SecateursError
from secateurs.models import names

if TYPE_CHECKING:
    import torch


def nearest_model(path: str | Path, name: str) -> str | None:
    """The name of a model that the weights in a file fit, or None.

    Args:
        path: file of the weights.
        name: name of the model that they do not fit; models with similar names are tried first.

    Returns:
        A name as ``build`` takes it, such as ``torchvision:resnet50``, followed by the options it
        needs. Candidates are built on the meta device, and nothing is downloaded.
    """
    import torch

    from secateurs.pytorch.checkpoints import classes_in, fit_names
    from secateurs.pytorch.saving import read

    try:
        state, _ = read(path)
    except CheckpointError:
        return None
    classes = classes_in(state)
    known = {"classes": classes} if classes else {}
    for candidate, options in _candidates(name):
        try:
            with torch.device("meta"):
                model = names.build(candidate, **options, **known)
        except (SecateursError, RuntimeError, TypeError, ValueError, NotImplementedError):
            continue
        renamed = fit_names(state, model.state_dict(), getattr(model, "own_name", None))
        if _fits(renamed, model.state_dict()):
            flags = "".join(f" -o {key}={str(value).lower()}" for key, value in options.items())
            return f"{candidate}{flags}"
    return None


def _fits(state: Mapping[str, torch.Tensor], names: Mapping[str, torch.Tensor]) -> bool:
    return state.keys() == names.keys() and all(
        tuple(state[key].shape) == tuple(names[key].shape) for key in names
    )


def _candidates(name: str) -> Iterator[tuple[str, dict[str, bool]]]:
    """(name, options) of models to try, those with similar names first."""
    plain = name.rpartition(":")[2]
    if plain in names.OURS:
        yield plain, {}
        if plain.startswith("resnet"):
            yield plain, {"through": True}
    for source in ("torchvision", "timm"):
        yield f"{source}:{plain}", {}
    try:
        known = names.import_torchvision(plain).list_models()
    except SecateursError:
        return
    letters = plain.rstrip("0123456789_")[:4]
    alike = [one for one in known if one.startswith(letters)]
    for one in [*alike, *(one for one in names.OURS if one != plain)]:
        yield (one if one in names.OURS else f"torchvision:{one}"), {}
