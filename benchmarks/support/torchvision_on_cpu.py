"""Lets torchvision and timm import beside a CPU build of PyTorch; import it before them.

torchvision's wheels are linked against CUDA, so beside a CPU-only PyTorch their compiled operators
do not load, and the import stops at a missing ``torchvision::nms``. Declaring the two operators
whose fake implementations are registered at import is enough to build and run every model. Where
they are there already, nothing is done.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
