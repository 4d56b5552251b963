"""Export targets: file suffix, supported frameworks, and required packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateurs.errors import ExportError, nearest


@dataclass(frozen=True, slots=True)
class Target:
    """A file format that a runtime reads.

    Attributes:
        name: name for ``to=`` and ``--to``.
        suffix: suffix of the file; "" for a directory.
        modules: framework -> modules that must be importable.
        command: command that installs them.
    """

    name: str
    suffix: str
    modules: Mapping[str, tuple[str, ...]]
    command: str

    def check(self, framework: str) -> None:
        """Check that models of this framework can be written to this target.

        Raises:
            ExportError: they cannot, or a package is missing; the message says what to do.
        """
        if framework not in self.modules:
            raise ExportError(
                f"{self.name}: expected a model of {' or '.join(self.modules)}; received one of "
                f"{framework}. Its targets are: {', '.join(targets_of(framework))}"
            )
        for module in self.modules[framework]:
            if importlib.util.find_spec(module) is None:
                raise ExportError(
                    f"{self.name}: needs the package {module!r}, which is not installed. "
                    f"Install it: {self.command}"
                )


_ONNX = ("onnx", "onnxruntime")

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            "onnx",
            ".onnx",
            {"pytorch": (*_ONNX, "onnxscript"), "keras": _ONNX},
            "pip install 'secateurs[export]'",
        ),
        Target(
            "openvino",
            ".xml",
            {"pytorch": ("openvino", "onnx", "onnxscript"), "keras": ("openvino", "onnx")},
            "pip install 'secateurs[export,openvino]'",
        ),
        Target("pt2", ".pt2", {"pytorch": ()}, "pip install torch"),
        Target("executorch", ".pte", {"pytorch": ("executorch",)}, "pip install executorch"),
        Target(
            "litert",
            ".tflite",
            {"pytorch": ("litert_torch",), "keras": ("tensorflow",)},
            "pip install litert-torch (PyTorch, in an environment of its own) or "
            "pip install tensorflow (Keras)",
        ),
        Target("coreml", ".mlpackage", {"pytorch": ("coremltools",)}, "pip install coremltools"),
        Target("safetensors", ".safetensors", {"pytorch": (), "keras": ()}, ""),
        Target("keras", ".keras", {"keras": ()}, "pip install keras"),
        Target("savedmodel", "", {"keras": ("tensorflow",)}, "pip install tensorflow"),
    )
}
"""Targets by name."""


def targets_of(framework: str) -> list[str]:
    """Names of the targets that a framework's models can be written to."""
    return [name for name, target in TARGETS.items() if framework in target.modules]


def target_of(path: Path, name: str | None) -> Target:
    """The target with this name, or the one that a file's suffix implies.

    Raises:
        ExportError: no such target, or the suffix belongs to another.
    """
    if name is None:
        for target in TARGETS.values():
            if target.suffix and target.suffix == path.suffix:
                return target
        known = ", ".join(target.suffix for target in TARGETS.values() if target.suffix)
        raise ExportError(
            f"{path}: expected a name that ends in one of {known}, or to=; received "
            f"{path.suffix or 'no suffix'!r}"
        )
    if name not in TARGETS:
        raise ExportError(f"to: no target is called {name!r}{nearest(name, list(TARGETS))}")
    target = TARGETS[name]
    if target.suffix and path.suffix != target.suffix:
        raise ExportError(
            f"{path}: expected a name that ends in {target.suffix} for {name}; received "
            f"{path.suffix or 'none'!r}. Call it {path.with_suffix(target.suffix).name}"
        )
    return target
