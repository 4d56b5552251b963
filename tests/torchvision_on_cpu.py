"""Lets torchvision and timm import beside a CPU build of PyTorch: import it before them.

PyPI's torchvision is linked against CUDA; beside a CPU-only PyTorch its compiled operators do not
load, and importing it stops at a missing `torchvision::nms`. Declaring the two operators whose fake
implementations are registered at import is enough to build and run every model definition.
Nothing happens where the operators are already there.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")
for _schema in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _schema):
        _library.define(f"{_schema}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
