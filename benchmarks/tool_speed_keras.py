"""How long the tool takes with a Keras model, beside PyTorch with the same network.

    python benchmarks/tool_speed_keras.py                                  # on PyTorch's backend
    KERAS_BACKEND=tensorflow python benchmarks/tool_speed_keras.py MobileNetV2 --side 64 224

Trace, score, plan, apply and prove, of keras.applications and of torchvision, half of the channels
of every layer by the L1 norm, one thread, from a fresh model, in one process and in turn (A B A B
...), so that the machine's noise hits both; what counts is processor time. Medians; the ratio is
the median over pairs of runs, with its quartiles.

TensorFlow compiles each of its operations when it first runs it with an attribute or on a variable
of a shape; ``keras.utils.set_random_seed`` makes it forget them all, so seeds are set once. With
``--forget`` it forgets them before each run: that is the first model of its shapes in a process.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np
import torch

import support.torchvision_on_cpu  # noqa: F401  (before torchvision)
from coverage_keras import IN_TORCHVISION
from support.tool_steps import time_steps


def build_keras(name: str, side: int) -> tuple[Any, Any]:
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
    return model, np.random.default_rng(0).standard_normal((1, side, side, 3)).astype("float32")


def build_torch(name: str, side: int) -> tuple[Any, Any]:
    import torchvision

    model = torchvision.models.get_model(IN_TORCHVISION[name], weights=None).eval()
    return model, torch.randn(1, 3, side, side)


def run(model: Any, x: Any) -> dict[str, float]:
    gc.collect()
    steps = time_steps(model, x, {"apply and prove": True})
    return {**steps, "all": sum(steps.values())}


def run_forward(model: Any, x: Any) -> float:
    with torch.inference_mode():
        start = time.process_time()
        model(x, training=False) if isinstance(model, keras.Model) else model(x)
        return time.process_time() - start


def measure(name: str, side: int, repeats: int, *, forget: bool = False) -> None:
    sides: dict[str, Callable[[str, int], tuple[Any, Any]]] = {
        "Keras": build_keras,
        "PyTorch": build_torch,
    }
    rows: dict[str, list[dict[str, float]]] = {label: [] for label in sides}
    for turn in range(repeats + 1):  # the first warms up what is imported late
        for label, build in sides.items():
            model, x = build(name, side)
            if forget:
                keras.utils.set_random_seed(0)
            row = {**run(model, x), "a forward pass": run_forward(model, x)}
            if turn:
                rows[label].append(row)
    middle = {
        label: {step: statistics.median(row[step] for row in of) for step in of[0]}
        for label, of in rows.items()
    }
    pairs = zip(rows["Keras"], rows["PyTorch"], strict=True)
    ratios = [mine["all"] / theirs["all"] for mine, theirs in pairs]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    print(
        f"{name} at {side} x {side}, {keras.backend.backend()}: {ratio:.2f} times PyTorch's time "
        f"({low:.2f}-{high:.2f})"
    )
    for label, steps in middle.items():
        print(f"  {label:8s}" + "".join(f"  {step} {at:.3f}" for step, at in steps.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["ResNet50", "MobileNetV2"])
    parser.add_argument("--side", nargs="*", type=int, default=[64, 224])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forget", action="store_true", help="forget compiled operations")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keras.utils.set_random_seed(0)
    for name in given.models:
        for side in given.side:
            measure(name, side, given.repeats, forget=given.forget)


if __name__ == "__main__":
    main()
