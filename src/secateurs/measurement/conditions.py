"""Conditions of a speed measurement: runtime, batch, threads, data type, device."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from secateurs.errors import BudgetError, UnknownNameError, nearest

Runtime = Literal["eager", "channels-last", "compile", "onnxruntime", "openvino"]
NumberType = Literal["float32", "float16", "bfloat16"]

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "eager": (),
    "channels-last": (),
    "compile": (),
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
}
"""Runtime -> packages that it needs besides the model's own framework."""


_MOST = {"batch": 10**6, "threads": 1024}
"""Upper bounds. More threads than the system grants would kill the process without an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions that a speed refers to.

    Attributes:
        runtime: what runs the model: its framework as it is ("eager"), in channels-last memory
            format, through its compiler ("compile"), ONNX Runtime or OpenVINO.
        batch: examples per call; None for as many as the example inputs hold.
        threads: number of CPU threads; None for the runtime's own default.
        dtype: data type in which the model computes; "float16" and "bfloat16" where the runtime and
            device support them.
        device: "cpu" or "cuda".
    """

    runtime: Runtime = "eager"
    batch: int | None = None
    threads: int | None = None
    dtype: NumberType = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.runtime not in PACKAGES:
            raise UnknownNameError(
                f"no runtime is called {self.runtime!r}{nearest(str(self.runtime), list(PACKAGES))}"
            )
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise UnknownNameError(
                f"dtype: expected float32, float16 or bfloat16; received {self.dtype!r}"
            )
        if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", str(self.device)):
            raise UnknownNameError(
                f"device: expected cpu, cuda, or one by its number such as cuda:0; received "
                f"{self.device!r}"
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise BudgetError(f"{name}: expected a whole number above 0; received {value!r}")
            if value is not None and value > most:
                raise BudgetError(f"{name}: expected at most {most:,}; received {value:,}")

    @property
    def on_one_thread(self) -> bool:
        """Whether the calling thread does all the work, so that its CPU time can be measured."""
        return self.threads == 1 and self.device == "cpu"

    def __str__(self) -> str:
        threads = "its own threads" if self.threads is None else f"{self.threads} thread"
        plural = "s" if self.threads not in (None, 1) else ""
        batch = "" if self.batch is None else f", batch {self.batch}"
        where = "" if self.device == "cpu" else f", {self.device}"
        number = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"{self.runtime}{batch}, {threads}{plural}{number}{where}"

    def to_plain(self) -> dict[str, Any]:
        """The conditions as a dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_text(cls, given: Mapping[str, str]) -> Conditions:
        """Parse values given as text, as on the command line.

        Raises:
            BudgetError: a value is not a number.
            UnknownNameError: no such runtime or data type.
        """
        values: dict[str, Any] = dict(given)
        for name in ("batch", "threads"):
            if name in values:
                text = str(values[name])
                # isdigit() would let superscripts through, and int() refuses very long numbers.
                values[name] = int(text) if re.fullmatch("[0-9]{1,9}", text) else text
        return cls(**values)

    def with_batch(self, batch: int) -> Conditions:
        """The same conditions with this batch size."""
        return replace(self, batch=batch)


CONDITION_NAMES = tuple(field.name for field in fields(Conditions))


def check_installed(runtime: str) -> None:
    """Check that a runtime's packages are installed.

    Raises:
        UnknownNameError: one is missing; the message gives the command that installs it.
    """
    for package in PACKAGES[runtime]:
        if installed_version(package) is None:
            raise UnknownNameError(
                f"{runtime}: needs the package {package!r}, which is not installed. "
                f"Install it: pip install {' '.join(PACKAGES[runtime])}"
            )


def machine() -> dict[str, str]:
    """Describe what times depend on besides the model: the machine and package versions."""
    names = ("secateurs", "torch", "keras", "numpy", "onnxruntime", "openvino")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version for name in names if (version := installed_version(name)) is not None},
    }


def fingerprint(*parts: Any) -> str:
    """Hash plain values to twenty hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def installed_version(package: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "cpu family", "model\t", "flags")
    matching = [line for line in lines if line.startswith(wanted)]
    # Different cloud machines report the same model name; their flags tell them apart.
    name = next((line.partition(": ")[2] for line in matching if line.startswith("model name")), "")
    return f"{name} {fingerprint(sorted(set(matching)))}"
