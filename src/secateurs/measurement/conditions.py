"""Under what conditions a model's speed is measured: runtime, batch, threads, type, device."""

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
"""Runtime -> what must be installed for it beside the model's own framework."""


_MOST = {"batch": 10**6, "threads": 1024}
"""More threads than a system grants end the process, without an error that could be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a speed is said for.

    Attributes:
        runtime: what runs the model: its framework as it is ("eager"), in memory order
            channels-last, through its compiler ("compile"), ONNX Runtime or OpenVINO.
        batch: examples a call; None is as many as the example inputs hold.
        threads: of the processor; None leaves the runtime its own number.
        dtype: of the arithmetic; "float16" and "bfloat16" where the runtime and device have it.
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
        """Whether all of the work is done by the thread that asks for it."""
        return self.threads == 1 and self.device == "cpu"

    def __str__(self) -> str:
        threads = "its own threads" if self.threads is None else f"{self.threads} thread"
        plural = "s" if self.threads not in (None, 1) else ""
        batch = "" if self.batch is None else f", batch {self.batch}"
        where = "" if self.device == "cpu" else f", {self.device}"
        number = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"{self.runtime}{batch}, {threads}{plural}{number}{where}"

    def to_plain(self) -> dict[str, Any]:
        """As a dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_text(cls, given: Mapping[str, str]) -> Conditions:
        """Of the texts that a command line gives.

        Raises:
            BudgetError: a number is none.
            UnknownNameError: no runtime or type is called so.
        """
        values: dict[str, Any] = dict(given)
        for name in ("batch", "threads"):
            if name in values:
                text = str(values[name])
                values[name] = int(text) if text.isdigit() else text
        return cls(**values)

    def with_batch(self, batch: int) -> Conditions:
        """The same, for calls of so many examples."""
        return replace(self, batch=batch)


CONDITION_NAMES = tuple(field.name for field in fields(Conditions))


def check_installed(runtime: str) -> None:
    """Raise unless the runtime's packages are there.

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
    """What a measured time depends on beside the model: the machine and the versions."""
    names = ("secateurs", "torch", "keras", "numpy", "onnxruntime", "openvino")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version for name in names if (version := installed_version(name)) is not None},
    }


def fingerprint(*parts: Any) -> str:
    """Twenty letters that stand for these plain values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def installed_version(package: str) -> str | None:
    """A package's version; None where it is not installed."""
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
    # Cloud machines of many kinds are called alike: what they can do is told by their flags.
    name = next((line.partition(": ")[2] for line in matching if line.startswith("model name")), "")
    return f"{name} {fingerprint(sorted(set(matching)))}"
