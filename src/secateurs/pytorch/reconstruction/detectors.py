"""torchvision's detectors, as repair runs them: on a batch, and on regions that are given.

They take lists of images of any sizes, which they resize and normalise first; a working copy takes
a batch of images that were resized and normalised already. Those of two stages pool the regions
that their first stage proposes; the copy pools those that the dense model proposed, as many in each
image, so that both networks compute the same.
"""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from secateurs.pytorch.model.copies import mix_in_, share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs

REGIONS = 32
"""Number of regions in each image that the second stage is compared on."""

_STAGES = {"box": REGIONS, "mask": 8, "keypoint": 8}
"""Heads of the second stage, and number of regions for each; the last two give images."""

_IMAGES_AT_A_TIME = 8


def takes_image_lists(model: nn.Module) -> bool:
    """Whether it resizes a list of images itself, as torchvision's detectors do."""
    kinds = type(getattr(model, "transform", None)).__mro__
    return any(
        kind.__name__ == "GeneralizedRCNNTransform" and kind.__module__.startswith("torchvision.")
        for kind in kinds
    )


def resize_images(model: nn.Module, images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Images as the model's backbone gets them in one batch, shape (images, channels, H, W)."""
    transform = copy.deepcopy(cast("nn.Module", model.transform)).eval()
    like = next(model.parameters())
    with torch.no_grad():
        resized, _ = transform([image.to(like.device, like.dtype) for image in images])
    batch: torch.Tensor = resized.tensors
    return batch


def adapt_(model: Any) -> None:
    """Let a private copy take what ``prepare_images`` returns."""
    model.transform = _Resized()
    if has_regions(model):
        mix_in_(model.rpn, _GivenProposals)
        mix_in_(model.roi_heads, _OfProposals)


class _Prepared(tuple[torch.Tensor, ...]):
    """Inputs of a detector's static part: a batch of images and, for two stages, regions."""

    __slots__ = ()


def prepare_images(model: nn.Module, images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The inputs of a detector's static part.

    Args:
        model: the dense detector; it comes back unchanged.
        images: images of any sizes, each of shape (channels, height, width).

    Returns:
        The images in one batch, shape (images, channels, H, W). For a detector of two stages also
        the regions that its first one proposes, the likeliest first, shape (images, ``REGIONS``,
        4); where there are fewer, they are repeated.
    """
    batch = resize_images(model, images)
    return _Prepared([batch, _propose(model, batch)] if has_regions(model) else [batch])


def prepare_example(model: nn.Module, example_inputs: object) -> tuple[torch.Tensor, ...]:
    """``prepare_images`` of example inputs, ``([image],)``, unless they were prepared before."""
    if isinstance(example_inputs, _Prepared):
        return example_inputs
    (images, *_), _ = parse_example_inputs(example_inputs, model)
    return prepare_images(model, [torch.as_tensor(image) for image in cast("list[Any]", images)])


def has_regions(model: nn.Module) -> bool:
    """Whether a detector has a second stage built like torchvision's."""
    heads = getattr(model, "roi_heads", None)
    return hasattr(getattr(model, "rpn", None), "head") and all(
        hasattr(getattr(heads, f"{name}_roi_pool", None), "featmap_names")
        for name in _STAGES
        if name == "box" or getattr(heads, f"{name}_roi_pool", None) is not None
    )


@torch.no_grad()
def _propose(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    detector: Any = share_tensors(model).eval()
    found = []
    for part in batch.split(_IMAGES_AT_A_TIME):
        images = _as_image_list(part)
        features = detector.backbone(part)
        if isinstance(features, torch.Tensor):
            features = {"0": features}
        height, width = part.shape[-2:]
        whole = part.new_tensor([[0, 0, width, height]])
        for boxes in detector.rpn(images, features)[0]:
            some = boxes if len(boxes) else whole
            found.append(some[torch.arange(REGIONS, device=some.device) % len(some)])
    return torch.stack(found)


def _as_image_list(batch: torch.Tensor) -> Any:
    lists = sys.modules["torchvision.models.detection.image_list"]
    height, width = batch.shape[-2:]
    return lists.ImageList(batch, [(height, width)] * len(batch))


class _Resized(nn.Module):
    """In place of a detector's transform, for a batch that went through it before."""

    def forward(self, images: _Images, targets: object = None) -> tuple[object, object]:
        made = _as_image_list(images.batch)
        made.regions = images.regions
        return made, targets

    def postprocess(self, result: object, *sizes: object) -> object:
        """Boxes stay in the coordinates of the batch."""
        del sizes
        return result


@dataclass(frozen=True, eq=False, slots=True)
class _Images:
    """A batch that a detector takes for a list of images, of which it first asks the sizes."""

    batch: torch.Tensor
    regions: torch.Tensor | None = None

    def __iter__(self) -> Iterator[_Size]:
        return iter([_Size(self.batch.shape[1:])] * len(self.batch))


@dataclass(frozen=True, slots=True)
class _Size:
    shape: torch.Size


def as_lists(model: nn.Module, arguments: Iterable[Any]) -> list[Any]:
    """The arguments, a batch as what a detector takes for a list of images."""
    if not isinstance(getattr(model, "transform", None), _Resized):
        return list(arguments)
    return [_Images(*arguments)]


@dataclass(frozen=True, eq=False, slots=True)
class _Proposals:
    """What the first stage hands on: regions, shape (images, regions, 4), and its results."""

    regions: torch.Tensor
    results: tuple[object, ...]


class _GivenProposals(nn.Module):
    """Mixed into a region proposal network: the regions are given, its head runs as well."""

    head: nn.Module

    def forward(
        self, images: Any, features: Mapping[str, torch.Tensor], targets: object = None
    ) -> tuple[object, dict[str, object]]:
        del targets
        return _Proposals(images.regions, self.head(list(features.values()))), {}


class _OfProposals(nn.Module):
    """Mixed into the second stage's heads: each runs on the given regions."""

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        proposals: _Proposals,
        image_shapes: list[tuple[int, int]],
        targets: object = None,
    ) -> tuple[object, dict[str, object]]:
        del targets
        results = [proposals.results]
        for name, most in _STAGES.items():
            pool, head, predictor = (
                getattr(self, f"{name}_{part}", None) for part in ("roi_pool", "head", "predictor")
            )
            if pool is None or head is None or predictor is None:
                continue
            pooled = _pool(pool, features, proposals.regions[:, :most], image_shapes)
            results.append(predictor(head(pooled)))
        return results, {}


def _pool(
    pool: Any,
    features: Mapping[str, torch.Tensor],
    regions: torch.Tensor,
    shapes: list[tuple[int, int]],
) -> torch.Tensor:
    """Pool regions, shape (images, regions, 4), by operations that do not depend on values.

    Each region is pooled from the level of features that torchvision would take for it. That is
    done for every level, and what belongs to other levels is multiplied by zero.
    """
    taken = [features[name] for name in pool.featmap_names if name in features]
    images, each, _ = regions.shape
    if pool.scales is None:
        pool(features, [*regions[:, :1]], shapes)
    numbers = torch.arange(images, device=regions.device, dtype=regions.dtype)
    numbers = numbers[:, None, None].expand(images, each, 1)
    rows = torch.cat([numbers, regions], 2).reshape(images * each, 5)
    align = sys.modules["torchvision.ops"].roi_align
    levels = pool.map_levels([rows[:, 1:]])
    pooled: list[torch.Tensor] = []
    for level, (values, scale) in enumerate(zip(taken, pool.scales, strict=True)):
        found = align(values, rows, pool.output_size, scale, pool.sampling_ratio)
        belongs = (levels == level).to(found.dtype)
        pooled.append(found if len(taken) == 1 else found * belongs[:, None, None, None])
    return functools.reduce(operator.add, pooled)
