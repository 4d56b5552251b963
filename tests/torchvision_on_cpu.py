"""Lets torchvision and timm import beside a CPU build of PyTorch: import it before them.

PyPI's torchvision is linked against CUDA; beside a CPU-only PyTorch its compiled operators do not
load, and importing it stops at a missing `torchvision::nms`. Declaring the two operators whose fake
implementations are registered at import is enough to build and run every model definition.
Nothing happens where the operators are already there. Detectors that are run want
``let_detectors_run``.
"""

import torch


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The boxes that overlap no better one too much, best first."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = scores.argsort(descending=True, stable=True)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        order = order[shared / (area[best] + area[order] - shared) <= iou_threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


def _check_nothing() -> None:
    """In place of torchvision's check; exporters read the source of what they find there."""


if torch.version.cuda is None:  # else they load, and bring their own
    _library = torch.library.Library("torchvision", "FRAGMENT")  # the library declares them too
    for _name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, _name):
            _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.impl("nms", _nms, "CPU")


def let_detectors_run() -> None:
    """Suppression and pooling of boxes in Python, where torchvision's compiled ones are missing."""
    from torchvision import extension
    from torchvision.ops import boxes

    if not extension._has_ops():
        boxes._assert_has_ops = _check_nothing
        torch._dynamo.config.disable = True  # its pooling in Python would be compiled first
