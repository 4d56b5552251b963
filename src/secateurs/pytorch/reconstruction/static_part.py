"""The part of a model before values decide on shapes: a detector without its choice of boxes.

How many boxes a detector returns depends on values, so its outputs for two images, or those of two
models, cannot be compared number by number. What can be are the results of its last layers before
such a decision: scores and offsets of every box that may be chosen. A pass that is followed with
each tensor's origin finds these layers; a copy of the model that ends after them, and returns their
results, is what repair runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from secateurs.pytorch.model.copies import mix_in_
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.reconstruction.decisions import FollowedPass, LayerCall
from secateurs.pytorch.reconstruction.detectors import (
    adapt_,
    as_lists,
    prepare_example,
    takes_image_lists,
)
from secateurs.pytorch.tracing.op_call import iterate_tensors as tensors_in
from secateurs.pytorch.tracing.op_call import map_tensors


class StaticPart(nn.Module):
    """Mixed into the class of a copy in eval mode: its forward ends after given layers.

    Their results are its outputs.

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
        try:
            super().forward(*as_lists(self, arguments), **keywords)
        except _Reached:
            pass
        finally:
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
        adapt_(model)
    arguments, keywords = parse_example_inputs(inputs, model)
    if takes_lists:
        with torch.no_grad():  # pooling finds its scales at the first call, by values
            model(*as_lists(model, arguments))
    followed = FollowedPass(model)
    followed.run(as_lists(model, arguments), keywords)
    if not followed.is_static_before_decisions and not takes_lists:
        return model, example_inputs
    last = tuple(followed.calls[number] for number in sorted(followed.last))
    if not last:
        return model, example_inputs
    mix_in_(model, StaticPart)
    model.last_layers = last  # type: ignore[assignment]
    return model, inputs
