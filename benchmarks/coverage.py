"""Which models can be pruned: torchvision's classifiers, one of every timm module, and others.

    make coverage                                         # everything; writes docs/coverage.md
    python benchmarks/coverage.py torchvision:resnet18    # some, printed

Each model in a process of its own, one thread, two minutes of processor time at most: trace, cut
half of the channels of every group by the L1 norm, apply, prove, one training step, save, load
into a fresh model. No model gets any help. A model counts if at least 40 % of its parameters
outside embeddings and classifier went, and the proof held, or the operations that make it inexact
are named. Torch-Pruning gets the same, with the classifier among its ignored layers; it has no
proof, so all that is asked of its model is that it runs, trains and keeps its output's shape. Both
meet a model that has run once, and a garbage collector that has nothing left of the imports to
look through.

A run that was stopped goes on: what is in ``--results`` is not done again.
"""

import argparse
import contextlib
import functools
import gc
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateurs as sec
from secateurs import files
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.tracing.op_call import map_tensors
from support import coverage_page, zoo

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
SMALLEST = Path(__file__).parent / "smallest_of_timm.json"
LIMIT = 120
ENOUGH = 0.4
EMBEDDINGS = ("pos_embed", "cls_token", "class_token", "position", "rel_pos", "dist_token")


def names() -> list[str]:
    import torchvision

    ours = torchvision.models.list_models(module=torchvision.models)
    theirs = json.loads(SMALLEST.read_text())
    classifiers = [f"torchvision:{name}" for name in ours]
    return [*classifiers, *(f"timm:{name}" for name in theirs.values()), *zoo.OTHERS]


def countable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters outside embeddings and classifier."""
    apart = {
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, nn.Embedding) or is_classifier(module)
    }
    for name, parameter in model.named_parameters():
        if id(parameter) not in apart and not any(word in name for word in EMBEDDINGS):
            yield name, parameter


def is_classifier(module: nn.Module) -> bool:
    sizes = (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    return zoo.CLASSES in sizes


def floats_in(output: Any) -> Iterator[torch.Tensor]:
    """Tensors of an output that training could act on."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (Mapping, list, tuple)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from floats_in(value)


def result(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    arguments, keywords = parse_example_inputs(inputs, model)
    return list(floats_in(model(*arguments, **keywords)))


def train_one_step(model: nn.Module, inputs: Any) -> None:
    """One step of gradient descent; a detector, which trains on boxes, in eval mode."""
    is_detector = isinstance(inputs, tuple) and isinstance(inputs[0], list)
    model.train(not is_detector)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    inputs = inputs if is_detector else map_tensors(inputs, lambda x: torch.cat([x, x.flip(-1)]))
    sum(tensor.square().mean() for tensor in result(model, inputs)).backward()
    optimizer.step()
    model.eval()


def set_aside() -> None:
    """Keep what the imports left out of the garbage collector's rounds.

    One round over it takes 0.2 s, and falls into the time of whichever tool happens to allocate the
    object that sets it off.
    """
    gc.collect()
    gc.freeze()


def run_ours(name: str) -> dict[str, Any]:
    model, x = zoo.build(name)
    result(model, x)
    set_aside()
    start = time.process_time()
    network = sec.trace(model, x)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5, floor=1)
    small = sec.apply(model, cut, x, network=network)
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        sec.save(small, Path(folder) / "small.safetensors")
        loaded = sec.load(zoo.build(name)[0], Path(folder) / "small.safetensors").eval()
    with torch.no_grad():
        same = all(map(torch.equal, result(loaded, x), result(small.eval(), x)))
    train_one_step(small, x)
    proof = sec.report_of(small).proof
    return {
        "seconds": seconds,
        **shares(model, small),
        "difference": proof.max_difference,
        "scale": proof.scale,
        "inside": proof.inside,
        "inexact": list(proof.inexact),
        "loads": same,
        "frozen": [[f.name, f.count, list(f.reasons)] for f in network.frozen],
        "notes": list(network.notes),
        "proven": proof.holds,
    }


def run_theirs(name: str) -> dict[str, Any]:
    import torch_pruning as tp

    model, x = zoo.build(name)
    before = zoo.build(name)[0]
    shapes = [tensor.shape for tensor in result(model, x)]
    set_aside()
    start = time.process_time()
    pruner = tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[m for m in model.modules() if is_classifier(m)],
    )
    pruner.step()
    seconds = time.process_time() - start
    received = [tensor.shape for tensor in result(model.eval(), x)]
    if received != shapes:
        raise ValueError(f"the output was {shapes} and is {received}")
    train_one_step(model, x)
    return {"seconds": seconds, **shares(before, model)}


def run_independent(name: str) -> dict[str, Any]:
    """The second proof, which shares nothing with the rules: a few hundred passes a model."""
    model, x = zoo.build(name)
    x = smaller(model, x)
    let_through(model, x)
    start = time.process_time()
    network = sec.trace(model, x)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5, floor=1)
    small = sec.apply(model, cut, x, network=network, proof="independent")
    proof = sec.report_of(small).proof.independent
    return {
        "seconds": time.process_time() - start,
        **shares(model, small),
        "difference": proof.max_difference,
        "scale": proof.scale,
        "judged": proof.channels / max(1, cut.removed_channels),
        "unheard": list(proof.unheard),
    }


def smaller(model: nn.Module, inputs: Any) -> Any:
    """Images of 64 x 64 pixels in place of larger ones, where the model takes them."""
    if not isinstance(inputs, torch.Tensor) or inputs.dim() != 4 or inputs.shape[-1] <= 64:
        return inputs
    small = inputs[..., :64, :64]
    with contextlib.suppress(Exception), torch.no_grad():
        if all(tensor.isfinite().all() for tensor in result(model, small)):
            return small
    return inputs


def let_through(model: nn.Module, inputs: Any) -> None:
    """Give batch normalisations the moments of these inputs.

    With those that a new model comes with, nothing of the first layers of a deep one shows in its
    answers, and nothing is proven.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
        if norm.weight is not None:  # many begin the last one of a branch at zero
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    with contextlib.suppress(RuntimeError, ValueError, AssertionError, TypeError), torch.no_grad():
        # Inputs that cannot be doubled leave the model as it is.
        result(model, map_tensors(inputs, lambda x: torch.cat([x, x.flip(-1)])))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def shares(dense: nn.Module, small: nn.Module) -> dict[str, Any]:
    counted = dict(countable(dense))
    left = dict(small.named_parameters())
    before = sum(p.numel() for p in counted.values())
    after = sum(left[name].numel() for name in counted if name in left)
    return {
        "before": sum(p.numel() for p in dense.parameters()),
        "after": sum(p.numel() for p in small.parameters()),
        "removed": 1 - after / max(1, before),
    }


TOOLS = ("ours", "theirs", "both", "independent")
"""Secateurs, Torch-Pruning, one after the other, and Secateurs' second proof, on its own."""


def in_its_own_process(name: str, tool: str, limit: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", "--tool", tool, name]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=functools.partial(limit_processor_time, limit),
    )
    if done.returncode == -signal.SIGXCPU:
        return {"name": name, "tool": tool, "error": f"did not end in {limit} s"}
    lines = done.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        last = (done.stderr.strip().splitlines() or ["died"])[-1]
        return {"name": name, "tool": tool, "error": last}
    return json.loads(lines[-1])


def limit_processor_time(limit: int) -> None:
    """Of the processor's time, not the wall's: what else the machine does is no model's fault."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))


def one(name: str, tool: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        run = {"ours": run_ours, "theirs": run_theirs, "independent": run_independent}[tool]
        result = run(name)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        result = {"error": f"{text} ({Path(where.filename).name}:{where.lineno})"}
    print(json.dumps({"name": name, "tool": tool, **result}))


def counts(result: dict[str, Any]) -> bool:
    fine = "error" not in result and result["removed"] >= ENOUGH
    return fine and result.get("proven", True) and result.get("loads", True)


def describe(result: dict[str, Any]) -> str:
    start = f"{result['name']:45s} {result['tool']:6s}"
    if "error" in result:
        return f"{start} FAILED {result['error'][:150]}"
    return (
        f"{start} {'ok    ' if counts(result) else 'SHORT '} "
        f"{result['seconds']:6.2f} s  removed {100 * result['removed']:3.0f} %  "
        f"difference {result.get('difference', float('nan')):.1e}"
        + (f"  judged {100 * result['judged']:3.0f} %" if "judged" in result else "")
        + (f"  unheard {', '.join(result['unheard'][:3])}" if result.get("unheard") else "")
    )


def load_results(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


def measure(
    wanted: list[str], tools: list[str], path: Path, limit: int = LIMIT
) -> dict[str, dict[str, Any]]:
    """Every model with every tool, one after the other, but for those that are done."""
    results = load_results(path)
    for name in wanted:
        # Which layers of these Torch-Pruning must leave alone would have to be told it one by one.
        for tool in [tool for tool in tools if name not in zoo.OTHERS or tool != "theirs"]:
            key = f"{tool} {name}"
            if key in results:
                continue
            results[key] = in_its_own_process(name, tool, limit)
            print(describe(results[key]), flush=True)
            files.write_atomically(path, json.dumps(results, indent=1).encode())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tool", choices=TOOLS, default="both")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("runs/coverage.json"))
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds a model and tool")
    parser.add_argument("--write", action="store_true", help="write docs/coverage.md")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.names[0], arguments.tool)
        return
    tools = ["ours", "theirs"] if arguments.tool == "both" else [arguments.tool]
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    results = measure(arguments.names or names(), tools, arguments.results, arguments.limit)
    for tool in tools:
        of_tool = [result for result in results.values() if result["tool"] == tool]
        print(f"{tool}: {sum(counts(result) for result in of_tool)} of {len(of_tool)}")
    if arguments.write:
        coverage_page.write(PAGE, results, counts)


if __name__ == "__main__":
    main()
