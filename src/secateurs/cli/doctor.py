"""``secateurs doctor``: the environment for a bug report, and a test of the installation."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from secateurs.cli.show import console
from secateurs.formatting import megabytes

PACKAGES = (
    "secateurs",
    "numpy",
    "scipy",
    "torch",
    "accelerate",
    "torchvision",
    "keras",
    "tensorflow",
    "jax",
    "safetensors",
    "pydantic",
    "typer",
    "rich",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "ray",
)
_TOLERANCE = 1e-4


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor_command)


def doctor_command() -> None:
    """Show versions, devices, threads and disk space, and test this installation (ten seconds).

    Paste the output into a bug report. No files are left on disk. Exits with 1 if a test fails.

    Try:

      secateurs doctor
    """
    out = console()
    out.print("\n".join(f"{name:<12} {value}" for name, value in environment()), markup=False)
    failed = 0
    for name, test in TESTS:
        began = time.monotonic()
        try:
            result = test()
        except Exception as error:  # noqa: BLE001 - any error is the result of the test
            failed += 1
            result = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}"
        out.print(f"{name:<12} {result} ({time.monotonic() - began:.1f} s)", markup=False)
    if failed:
        raise typer.Exit(1)


def environment() -> Iterator[tuple[str, str]]:
    """Yield (name, value) for everything that an error may depend on."""
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "platform", f"{platform.platform()}, {os.cpu_count()} cores"
    for name in PACKAGES:
        yield name, _version(name)
    for name in ("OMP_NUM_THREADS", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE"):
        if name in os.environ:
            yield name, os.environ[name]
    if importlib.util.find_spec("torch") is not None:
        yield from _torch()
    for label, place in (("here", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        yield f"disk {label}"[:12], f"{megabytes(shutil.disk_usage(place).free)} free in {place}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _torch() -> Iterator[tuple[str, str]]:
    import torch

    yield "threads", f"{torch.get_num_threads()} of PyTorch"
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    yield "devices", ", ".join(devices) or "cpu"


def _test_files() -> str:
    """Write, lock and read files as a study does, in the temporary directory."""
    from secateurs.files import write_atomically
    from secateurs.study.history import History
    from secateurs.study.lock import hold_lock

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with hold_lock(place):
            write_atomically(place / "file", b"whole")
            History.create(place / "history.jsonl").append("test", value=1.5)
        _expect(
            (place / "file").read_bytes() == b"whole", "a file differs from what was written to it"
        )
        record = History.load(place / "history.jsonl")[0]
        _expect(
            record == {"kind": "test", "value": 1.5},
            "a history differs from what was written to it",
        )
    return "written, flushed, locked and read back"


def _test_pytorch() -> str:
    """Compare a cut of a small PyTorch model with one made by hand."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch
    from torch import nn

    import secateurs as sec

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        last = nn.Conv2d(8, 4, 3)
        first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        dense = nn.Sequential(*first, last, nn.Flatten()).eval()
        images = torch.randn(2, 3, 8, 8)
    small = sec.delete_channels(dense, {"0": [1, 6]}, images)
    kept = [0, 2, 3, 4, 5, 7]
    with torch.no_grad():
        by_hand = nn.functional.conv2d(first(images)[:, kept], last.weight[:, kept], last.bias)
        difference = float((small(images) - by_hand.flatten(1)).abs().max())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.safetensors"
            sec.save(small, path)
            again = sec.load(dense, path).eval()
        _expect(torch.equal(again(images), small(images)), "a loaded model gives other outputs")
    _expect(difference <= _TOLERANCE, f"a cut differs by {difference:.2g}")
    return f"cut, saved and loaded; {difference:.1e} from the cut by hand"


def _test_keras() -> str:
    """Compare a cut of a small Keras model with one made by hand."""
    if importlib.util.find_spec("keras") is None:
        return "Keras is not installed"
    import keras
    import numpy as np

    import secateurs as sec

    layers = keras.layers
    dense = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(3)]
    )
    small = sec.delete_channels(dense, {"hidden": [1, 6]})
    inputs = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    first, bias, second, last = dense.get_weights()
    kept = [0, 2, 3, 4, 5, 7]
    by_hand = np.maximum(inputs @ first + bias, 0)[:, kept] @ second[kept] + last
    difference = float(np.abs(np.asarray(small.predict_on_batch(inputs)) - by_hand).max())
    _expect(difference <= _TOLERANCE, f"a cut differs by {difference:.2g}")
    return f"cut on {keras.backend.backend()}; {difference:.1e} from the cut by hand"


TESTS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("files", _test_files),
    ("pytorch", _test_pytorch),
    ("keras", _test_keras),
)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)
