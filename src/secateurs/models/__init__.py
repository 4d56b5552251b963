"""Models to prune: ResNets with through layers, a plain CNN, and other models by name.

Names are resolved lazily, so that looking one up needs no PyTorch. The generic
``build_resnet(depth, ...)`` stays in its module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs.models.cnn import VanillaCNN, vanilla_cnn
    from secateurs.models.keras_files import is_keras_file
    from secateurs.models.names import build
    from secateurs.models.preprocessing import preprocessing_of
    from secateurs.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
    from secateurs.models.through import add_through_layers

__all__ = [
    "ResNet",
    "VanillaCNN",
    "add_through_layers",
    "build",
    "is_keras_file",
    "preprocessing_of",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vanilla_cnn",
]

_MODULES = {
    "VanillaCNN": "secateurs.models.cnn",
    "vanilla_cnn": "secateurs.models.cnn",
    "build": "secateurs.models.names",
    "is_keras_file": "secateurs.models.keras_files",
    "preprocessing_of": "secateurs.models.preprocessing",
    "add_through_layers": "secateurs.models.through",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "secateurs.models.resnet")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
