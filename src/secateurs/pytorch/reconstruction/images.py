"""Calibration images as a model's working copy takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import AT_A_TIME, CalibrationBatch, iterate_batches
from secateurs.calibration.examples import as_detections
from secateurs.channels.network import Network
from secateurs.data.sets import Split
from secateurs.errors import DataError
from secateurs.pytorch.reconstruction.detectors import prepare_images, takes_image_lists
from secateurs.pytorch.trace_model import source_of

_FIX = (
    "Pass a list of images (channels, height, width) of any sizes, a tensor of such, or batches "
    "(images, targets) as the detector trains on; labels are not needed."
)


def read_images(network: Network, data: Any, caller: str) -> list[CalibrationBatch]:
    """Checked calibration batches of the form that the working copy takes, in memory.

    Images for one of torchvision's detectors may have any sizes: they are resized and normalised
    by the detector itself, and padded to the largest, as in one batch.

    Args:
        network: network of the dense model.
        data: data as for ``secateurs.calibration.batches.iterate_batches``; for a detector that
            takes a list of images, images or batches of images, with or without targets.
        caller: name of what needs the data, for messages.

    Raises:
        DataError: the data cannot be used.
    """
    source = source_of(network)
    if not takes_image_lists(source.model):
        return list(iterate_batches(data, source.example_inputs, caller, labels=False))
    if data is None:
        raise DataError(f"{caller}: expected calibration images; received none. {_FIX}")
    transform = cast("Any", source.model.transform)
    channels = len(transform.image_mean)
    images = [
        _check(image, number, channels, caller)
        for number, image in enumerate(_list_images(data, caller))
    ]
    if not images:
        raise DataError(f"{caller}: expected calibration images; received no image. {_FIX}")
    arrays = [one.float().cpu().numpy() for one in prepare_images(source.model, images)]
    whole = CalibrationBatch(arrays[0] if len(arrays) == 1 else tuple(arrays), None)
    starts = range(0, len(images), AT_A_TIME)
    return [whole.rows(slice(start, start + AT_A_TIME)) for start in starts]


def first_example(model: torch.nn.Module, data: Any) -> tuple[Any, Any] | None:
    """(example inputs, the data) of a detector that takes a list of images; None for others.

    Data that can be iterated only once are stored in a list.
    """
    if not takes_image_lists(model):
        return None
    if isinstance(data, Iterator):
        data = list(data)
    first = next(_list_images(data, "repair"), None)
    if first is None:
        raise DataError(f"repair: expected calibration images; received no image. {_FIX}")
    return ([torch.as_tensor(first)],), data


def _list_images(data: Any, caller: str) -> Iterator[Any]:
    """Yield the images of a list, a batch, a data set of (image, target), or batches of any."""
    if isinstance(data, Split):
        data = data.batch(slice(0, len(data)))[0]
    if _is_array(data):
        yield from data if data.ndim != 3 else [data]
        return
    batch = as_detections(data)
    if isinstance(batch, tuple | list) and len(batch) == 2 and _holds_targets(batch[1]):
        yield from _list_images(batch[0], caller)
        return
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        kind = f"{type(data).__module__}.{type(data).__name__}".removeprefix("builtins.")
        raise DataError(
            f"{caller}: expected images for a detector, as tensors or arrays; received {kind}. "
            f"{_FIX}"
        )
    for part in data:
        yield from _list_images(part, caller)


def _holds_targets(value: object) -> bool:
    """Whether a value is the targets of a batch, or the target of an image."""
    if isinstance(value, tuple | list):
        return all(isinstance(target, Mapping) for target in value)
    return isinstance(value, Mapping) or value is None or (_is_array(value) and value.ndim < 3)


def _is_array(value: object) -> TypeGuard[torch.Tensor | NDArray[Any]]:
    return isinstance(value, torch.Tensor | np.ndarray)


def _check(image: Any, number: int, channels: int, caller: str) -> torch.Tensor:
    where = f"{caller}: calibration image {number}"
    tensor = torch.as_tensor(image)
    if tensor.dim() != 3 or tensor.shape[0] != channels or not tensor.numel():
        raise DataError(
            f"{where}: expected an image of shape ({channels}, height, width); received "
            f"{tuple(tensor.shape)}. {_FIX}"
        )
    if not tensor.is_floating_point():
        raise DataError(
            f"{where}: expected floating-point values in [0, 1], which the detector normalises; "
            f"received {str(tensor.dtype).removeprefix('torch.')}. Convert it: image / 255."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise DataError(f"{where}: expected finite values; received NaN or infinity")
    return tensor.detach()
