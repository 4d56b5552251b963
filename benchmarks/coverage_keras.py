"""Which models can be pruned: every architecture of keras.applications.

    make coverage-keras                              # everything; writes docs/coverage-keras.md
    python benchmarks/coverage_keras.py ResNet50     # some, printed

Random weights and the smallest input that the architecture takes. Each model in a process of its
own, one thread, ten minutes of processor time at most: trace, cut half of the channels of every
group by the L1 norm, apply, prove, one step of ``fit``, save, and load with ``keras.saving``
alone. No model gets any help. All of them run on PyTorch's backend, but for NASNet, which Keras
refuses to build there and which runs on TensorFlow's; one of each family runs on TensorFlow's and
on JAX's as well. Where torchvision has the same architecture, the same calls on its model
and on an image of the same size are timed too.

A run that was stopped goes on: what is in ``--results`` is not done again.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import secateurs as sec
from secateurs import files
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "coverage-keras.md"
MARK = "coverage-keras"
LIMIT = 600
LONGEST = 160
MAIN = "torch"
BACKENDS = ("torch", "tensorflow", "jax")
LEAST = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}
"""Smallest sides of the images; 32 for all others."""
REFUSED = {"NASNetLarge", "NASNetMobile"}
"""Keras does not build them on PyTorch's backend."""

FAMILIES = {
    "ConvNeXt": "ConvNeXtTiny",
    "DenseNet": "DenseNet121",
    "EfficientNetV2": "EfficientNetV2B0",
    "EfficientNet": "EfficientNetB0",
    "InceptionResNet": "InceptionResNetV2",
    "Inception": "InceptionV3",
    "MobileNetV3": "MobileNetV3Small",
    "MobileNetV2": "MobileNetV2",
    "MobileNet": "MobileNet",
    "NASNet": "NASNetMobile",
    "ResNetV2": "ResNet50V2",
    "ResNet": "ResNet50",
    "VGG": "VGG16",
    "Xception": "Xception",
}
"""Family -> the member that runs on every backend."""

IN_TORCHVISION = {
    **{
        f"ConvNeXt{size}": f"convnext_{size.lower()}" for size in ("Tiny", "Small", "Base", "Large")
    },
    **{f"DenseNet{depth}": f"densenet{depth}" for depth in (121, 169, 201)},
    **{f"EfficientNetB{number}": f"efficientnet_b{number}" for number in range(8)},
    **{f"EfficientNetV2{size}": f"efficientnet_v2_{size.lower()}" for size in "SML"},
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Large": "mobilenet_v3_large",
    "MobileNetV3Small": "mobilenet_v3_small",
    **{f"ResNet{depth}": f"resnet{depth}" for depth in (50, 101, 152)},
    "VGG16": "vgg16",
    "VGG19": "vgg19",
}


def names() -> list[str]:
    os.environ.setdefault("KERAS_BACKEND", MAIN)
    import keras

    found = vars(keras.applications)
    return sorted(name for name in found if name[0].isupper() and callable(found[name]))


def side(name: str) -> int:
    return LEAST.get(name, 32)


def run_keras(name: str) -> dict[str, Any]:
    import keras

    keras.utils.set_random_seed(0)
    shape = (side(name), side(name), 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape)
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    start = time.process_time()
    network = sec.trace(model)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5, floor=1)
    small = sec.apply(model, cut, x[:1], network=network)
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        sec.save(small, Path(folder) / "small.keras")
        loaded = keras.saving.load_model(Path(folder) / "small.keras")
    outputs = [keras.ops.convert_to_numpy(one(x[:1], training=False)) for one in (small, loaded)]
    # Eagerly: a step that is run once is not worth compiling.
    small.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy", run_eagerly=True)
    small.fit(x, np.zeros(2, "int32"), batch_size=2, verbose=0)
    proof = sec.report_of(small).proof
    return {
        "seconds": seconds,
        "before": network.params(),
        "after": network.params(cut),
        "proven": proof.holds,
        "difference": proof.max_difference,
        "scale": proof.scale,
        "inside": proof.inside,
        "inexact": list(proof.inexact),
        "loads": bool(np.array_equal(*outputs)),
        "frozen": [[f.name, f.count, list(f.reasons)] for f in network.frozen],
    }


def run_torchvision(name: str) -> dict[str, Any]:
    import_module("support.torchvision_on_cpu")  # before torchvision
    import torch
    import torchvision

    model = torchvision.models.get_model(IN_TORCHVISION[name], weights=None).eval()
    x = torch.randn(1, 3, side(name), side(name))
    start = time.process_time()
    network = sec.trace(model, x)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5, floor=1)
    sec.apply(model, cut, x, network=network)
    return {"seconds": time.process_time() - start}


def in_its_own_process(name: str, backend: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", backend, name]
    keras_backend = backend if backend in BACKENDS else "torch"
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "KERAS_BACKEND": keras_backend}
    quiet["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # what is compiled here is run once
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **quiet},
        preexec_fn=limit_processor_time,
    )
    start = {"name": name, "backend": backend}
    if done.returncode == -signal.SIGXCPU:
        return {**start, "error": f"did not end in {LIMIT} s"}
    lines = done.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {**start, "error": (done.stderr.strip().splitlines() or ["died"])[-1]}
    return {**start, **json.loads(lines[-1])}


def limit_processor_time() -> None:
    """Of the processor's time, not the wall's: what else the machine does is no model's fault."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 5))


def one(name: str, backend: str) -> None:
    warnings.simplefilter("ignore")
    try:
        if backend in BACKENDS:
            import keras

            if keras.backend.backend() != backend:
                raise RuntimeError(f"{backend} was asked for; {keras.backend.backend()} answered")
            result = run_keras(name)
        else:
            result = run_torchvision(name)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        result = {"error": f"{text} ({Path(where.filename).name}:{where.lineno})"}
    print(json.dumps(result))


def fine(result: dict[str, Any]) -> bool:
    return "error" not in result and result["proven"] and result["loads"]


def describe(result: dict[str, Any]) -> str:
    start = f"{result['name']:20s} {result['backend']:12s}"
    if "error" in result:
        return f"{start} FAILED {result['error']}"
    if "after" not in result:
        return f"{start}        {result['seconds']:6.2f} s"
    return (
        f"{start} {'ok    ' if fine(result) else 'SHORT '} {result['seconds']:6.2f} s  "
        f"{result['before']:,} -> {result['after']:,}  difference {result['difference']:.1e}"
    )


def work(wanted: list[str], backends: list[str]) -> list[tuple[str, str]]:
    """(name, backend) of all there is to do: every model once, then one of each family."""
    some = set(FAMILIES.values())
    runs = {
        MAIN: set(wanted) - REFUSED,
        "torchvision": set(IN_TORCHVISION),
        "tensorflow": some | REFUSED,
        "jax": some,
    }
    return [(name, backend) for backend in backends for name in wanted if name in runs[backend]]


def measure(wanted: list[tuple[str, str]], path: Path) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for name, backend in wanted:
        key = f"{backend} {name}"
        if key not in results:
            results[key] = in_its_own_process(name, backend)
            print(describe(results[key]), flush=True)
            files.write_atomically(path, json.dumps(results, indent=1).encode())
    return results


# -- the page


def main_key(name: str) -> str:
    return f"{'tensorflow' if name in REFUSED else MAIN} {name}"


def page(results: dict[str, dict[str, Any]]) -> str:
    every = sorted({result["name"] for result in results.values()})
    rows = [_row(name, results) for name in every if main_key(name) in results]
    columns = (
        "model",
        "works",
        "time",
        "PyTorch's path",
        "parameters before",
        "after",
        "largest difference",
        "what stayed, and why",
    )
    others = [_others_row(name, results) for name in FAMILIES.values()]
    return "\n\n".join(
        [
            _summary(results),
            markdown(columns, rows),
            "On the other backends:",
            markdown(("model", "TensorFlow", "JAX", "difference, TensorFlow", "JAX"), others),
        ]
    )


def _summary(results: dict[str, dict[str, Any]]) -> str:
    sentences = []
    for backend in BACKENDS:
        of_backend = [result for result in results.values() if result["backend"] == backend]
        sentences.append(f"{backend} {sum(map(fine, of_backend))} of {len(of_backend)}")
    pairs = [
        (mine["seconds"], theirs["seconds"])
        for mine in results.values()
        if mine["backend"] == MAIN and "seconds" in mine
        if "seconds" in (theirs := results.get(f"torchvision {mine['name']}", {}))
    ]
    ratios = sorted(one / other for one, other in pairs)
    median = f"{ratios[len(ratios) // 2]:.2f}" if ratios else "not measured"
    return (
        f"Models that are traced, cut, proven, trained for a step, saved and loaded: "
        f"{'; '.join(sentences)}. Seconds of processor time from trace to proof, on PyTorch's "
        f"backend; the PyTorch path's are for torchvision's model of the architecture on the same "
        f"size of image (median of Keras's time to it: {median}, {len(ratios)} architectures). The "
        "largest difference is the output's, of its largest value, and that of the samples of "
        "every layer inside, relative to their size: on so small an image outputs may be equal."
    )


def _row(name: str, results: dict[str, dict[str, Any]]) -> list[str]:
    result = results[main_key(name)]
    if "error" in result:
        return [name, "no", "", "", "", "", "", result["error"][:LONGEST]]
    theirs = results.get(f"torchvision {name}", {})
    return [
        name,
        "yes" if fine(result) else "no",
        f"{result['seconds']:.1f} s",
        f"{theirs['seconds']:.1f} s" if "seconds" in theirs else "",
        f"{result['before']:,}",
        f"{result['after']:,}",
        f"{result['difference']:.1e} of {result['scale']:.2g}; inside {result['inside']:.1e}",
        _frozen(result),
    ]


def _frozen(result: dict[str, Any]) -> str:
    rows = [f"{count} of {name}: {'; '.join(why)}" for name, count, why in result["frozen"]]
    whole = ", ".join(rows)
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]} ... ({len(rows)} in all)"


def _others_row(name: str, results: dict[str, dict[str, Any]]) -> list[str]:
    on_others = [results.get(f"{backend} {name}") for backend in ("tensorflow", "jax")]
    times, differences = [], []
    for result in on_others:
        if result is None:
            times.append("not run")
        elif "error" in result:
            times.append(f"no: {result['error'][:LONGEST]}")
        else:
            times.append(f"{'yes' if fine(result) else 'no'}, {result['seconds']:.1f} s")
        known = result is not None and "error" not in result
        differences.append(f"{result['difference']:.1e}" if known else "")
    return [name, *times, *differences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--backends", nargs="*", default=[MAIN, "torchvision", "tensorflow", "jax"])
    parser.add_argument("--one", metavar="BACKEND")
    parser.add_argument("--results", type=Path, default=Path("runs/coverage_keras.json"))
    parser.add_argument("--write", action="store_true", help="write docs/coverage-keras.md")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.names[0], arguments.one)
        return
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    wanted = work(arguments.names or names(), arguments.backends)
    results = measure(wanted, arguments.results)
    if arguments.write:
        put(PAGE, MARK, page(results))


if __name__ == "__main__":
    main()
