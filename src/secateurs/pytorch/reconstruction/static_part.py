"""The part of a model before values decide on shapes: a detector without its choice of boxes.

How many boxes a detector returns depends on values, so its outputs for two images, or those of two
models, cannot be compared number by number. What can be are the results of its last layers before
such a decision: scores and offsets of every box that may be chosen. A pass that is followed with
each tensor's origin finds these layers; a copy of the model that ends after them, and returns their
results, is what repair runs.

torchvision's detectors also take lists of images of any sizes, which they resize and normalise
first. Their copy takes a batch of images that were resized and normalised already. Those of two
stages pool the regions that their first stage proposes; the copy pools those that the dense model
proposed, as many in each image, so that both networks compute the same.
"""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.replay.tape import memory_of
from secateurs.pytorch.tracing.op_call import (
    Arguments,
    Call,
    Keywords,
    is_decided_by_data,
    map_tensors,
)
from secateurs.pytorch.tracing.op_call import iterate_tensors as tensors_in

LayerCall = tuple[str, int]
"""(path of a module with weights of its own, number of the call)."""


class StaticPart(nn.Module):
    """Mixed into the class of a copy: its forward ends after given layers, with their results.

    Attributes:
        last_layers: the layers, in the order in which they run.
    """

    last_layers: tuple[LayerCall, ...]

    def forward(self, *arguments: Any, **keywords: Any) -> tuple[object, ...]:
        """The results of the last layers."""
        found: dict[LayerCall, object] = {}
        calls: Counter[str] = Counter()
        handles = [
            self.get_submodule(path).register_forward_hook(self._keeper(path, calls, found))
            for path in dict(self.last_layers)
        ]
        mode, self.training = self.training, False  # torchvision's ask for boxes in train mode
        try:
            super().forward(*_as_lists(self, arguments), **keywords)
        except _Reached:
            pass
        finally:
            self.training = mode
            for handle in handles:
                handle.remove()
        images = len(next(tensors_in([*arguments, *keywords.values()])))
        results = (found[layer] for layer in self.last_layers)
        return tuple(map_tensors(result, partial(_by_image, images)) for result in results)

    def _keeper(
        self, path: str, calls: Counter[str], found: dict[LayerCall, object]
    ) -> Callable[[nn.Module, object, object], None]:
        def keep(module: nn.Module, given: object, result: object) -> None:
            del module, given
            layer = path, calls[path]
            calls[path] += 1
            if layer in self.last_layers:
                found[layer] = result
            if len(found) == len(self.last_layers):
                raise _Reached

        return keep


def _by_image(images: int, result: torch.Tensor) -> torch.Tensor:
    """A result with a row for each image; an image's regions are consecutive rows."""
    each, rest = divmod(len(result), images)
    return result if rest or each == 1 else result.reshape(images, each, *result.shape[1:])


class _Reached(BaseException):
    """Ends a pass; no ``except Exception`` of a model's code catches it."""


def make_static_part(model: nn.Module, example_inputs: object) -> tuple[nn.Module, object]:
    """(a private copy as its static part, example inputs for it).

    The same model and inputs come back if its outputs do not depend on decisions by values, or if
    layers run after them, as in a mixture of experts. torchvision's detectors always have a static
    part: at least what their features and proposals are computed from.

    Args:
        model: a private copy, in eval mode; its class changes.
        example_inputs: its example inputs, or those that this returned for the dense model.
    """
    takes_lists = takes_image_lists(model)
    inputs = prepare_example(model, example_inputs) if takes_lists else example_inputs
    if takes_lists:
        model.transform = _Resized()
        if has_regions(model):
            _change_class(model.rpn, _GivenProposals)
            _change_class(model.roi_heads, _OfProposals)
    arguments, keywords = parse_example_inputs(inputs, model)
    if takes_lists:
        with torch.no_grad():  # pooling finds its scales at the first call, by values
            model(*_as_lists(model, arguments))
    followed = _Followed(model)
    followed.run(_as_lists(model, arguments), keywords)
    if not followed.is_static_before_decisions and not takes_lists:
        return model, example_inputs
    last = tuple(followed.calls[number] for number in sorted(followed.last))
    if not last:
        return model, example_inputs
    _change_class(model, StaticPart)
    model.last_layers = last  # type: ignore[assignment]
    return model, inputs


def _change_class(module: Any, first: type[nn.Module]) -> None:
    """Let a module's class inherit from another one first."""
    kind = type(module)
    if (first, kind) not in _DERIVED:
        names = {"__module__": kind.__module__}
        _DERIVED[first, kind] = type(kind.__name__, (first, kind), names)
    module.__class__ = _DERIVED[first, kind]


_DERIVED: dict[tuple[type, type], type] = {}
"""Classes made so far: a copy of a part is of the same class."""


def _plain(output: object) -> object:
    """An output as a plain dictionary, where it is a mapping of another class."""
    return dict(cast("Mapping[str, object]", output)) if hasattr(output, "keys") else output


# -- torchvision's detectors

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


def _as_lists(model: nn.Module, arguments: Iterable[Any]) -> list[Any]:
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


# -- which layers are the last before a decision


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a tensor was computed from.

    Attributes:
        layers: numbers of the calls of layers that it depends on, without layers in between.
        is_decided: whether values decided on its shape, or on operations that led to it.
    """

    layers: frozenset[int] = frozenset()
    is_decided: bool = False

    @classmethod
    def of_all(cls, origins: Iterable[_Origin]) -> _Origin:
        found = list(origins)
        layers = frozenset[int]().union(*(one.layers for one in found))
        return cls(layers, any(one.is_decided for one in found))


@dataclass(eq=False)
class _Followed:
    """A pass of a model, with the origin of each tensor.

    Attributes:
        model: model in eval mode.
        calls: the layers, in the order in which their calls end.
        last: numbers of the calls whose results reach a decision or an output past no other layer.
        is_static_before_decisions: whether values decide on outputs, and on no layer's input.
    """

    model: nn.Module
    calls: list[LayerCall] = field(default_factory=list)
    last: set[int] = field(default_factory=set)
    is_static_before_decisions: bool = True
    _origins: dict[int, tuple[StorageWeakRef, _Origin]] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)

    def run(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """Follow a pass to its end."""
        handles: list[RemovableHandle] = []
        for path, module in self.model.named_modules():
            if path and any(one is not None for one in module._parameters.values()):
                handles.append(
                    module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
                )
                handles.append(module.register_forward_hook(self._after(path)))
        try:
            with torch.no_grad(), _Watch(self):
                outputs = self.model(*arguments, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        origins = [self._origin(tensor) for tensor in tensors_in(_plain(outputs))]
        for origin in origins:
            self._reach(origin)
        if not any(origin.is_decided for origin in origins):
            self.is_static_before_decisions = False

    def do(self, call: Call) -> object:
        """Run an operation; its results have the origins of its operands."""
        given = [(tensor, self._origin(tensor)) for tensor in call.tensors()]
        origin = _Origin.of_all(one for _, one in given)
        if is_decided_by_data(call):
            origin = _Origin(origin.layers, is_decided=True)
        if origin.is_decided:
            for _, one in given:
                self._reach(one)
            origin = _Origin(is_decided=True)
        result = call.function(*call.arguments, **call.keywords)
        mine = [tensor for tensor, _ in given if tensor.layout is torch.strided]
        stores = set(map(memory_of, mine))
        for tensor in tensors_in(result):
            is_view = tensor.layout is torch.strided and memory_of(tensor) in stores
            shared = [self._origin(tensor)] if is_view else []
            self._put(tensor, _Origin.of_all([origin, *shared]))
        if call.function._schema.is_mutable and given:  # out= and index_put_ write into the first
            self._put(given[0][0], _Origin.of_all([origin, given[0][1]]))
        return result

    def _reach(self, origin: _Origin) -> None:
        if not origin.is_decided:
            self.last |= origin.layers

    def _origin(self, tensor: torch.Tensor) -> _Origin:
        if tensor.layout is not torch.strided:  # it has no memory to be known by
            self.is_static_before_decisions = False
            return _Origin()
        _, origin = self._origins.get(memory_of(tensor), (None, _Origin()))
        return origin

    def _put(self, tensor: torch.Tensor, origin: _Origin) -> None:
        if tensor.layout is not torch.strided:
            self.is_static_before_decisions = False
            return
        # The weak reference keeps the number of the memory from being given to another.
        reference = StorageWeakRef(tensor.untyped_storage())
        self._origins[memory_of(tensor)] = reference, origin

    def _before(
        self, module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]
    ) -> None:
        del module
        given = tensors_in([list(arguments), keywords])
        if any(self._origin(tensor).is_decided for tensor in given):
            self.is_static_before_decisions = False

    def _after(self, path: str) -> Callable[[nn.Module, object, object], None]:
        def number(module: nn.Module, given: object, result: object) -> None:
            del module, given
            self.calls.append((path, self._times[path]))
            self._times[path] += 1
            results = list(tensors_in(_plain(result)))
            if any(self._origin(tensor).is_decided for tensor in results):
                return
            for tensor in results:
                self._put(tensor, _Origin(frozenset([len(self.calls) - 1])))

        return number


class _Watch(TorchDispatchMode):
    """Passes each operation through the follower."""

    def __init__(self, followed: _Followed) -> None:
        super().__init__()
        self._followed = followed

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        del types
        return self._followed.do(Call(func, args, kwargs or {}))
