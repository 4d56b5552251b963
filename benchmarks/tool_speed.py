"""How long the tool itself takes: trace, score, plan, apply and prove, against Torch-Pruning.

    python benchmarks/tool_speed.py                  # all models, writes docs/benchmarks.md
    python benchmarks/tool_speed.py resnet50         # one, printed

Both cut half of the channels of every layer by the L1 norm, from the same fresh model, one thread,
in one process and in turn (A B A B ...), so that the machine's noise hits both; what counts is
processor time, which others on the machine do not add to. Memory is measured in processes of their
own: the peak of the resident set above what it was with the model built.
"""

import argparse
import copy
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import secateurs as sec
import support.torchvision_on_cpu  # noqa: F401  (before torchvision)
from support.tables import markdown, put
from support.tool_steps import time_steps

MODELS = (
    "resnet18",
    "resnet50",
    "resnet152",
    "densenet121",
    "densenet201",
    "mobilenet_v2",
    "efficientnet_b0",
    "vgg16",
)
SAYS = """## The tool's own speed

`python benchmarks/tool_speed.py`: half of the channels of every layer cut by the L1 norm, from the
same fresh torchvision model at 224 x 224, beside Torch-Pruning {version} (which does not prove what
it cut). Seconds of processor time, one thread, medians with their range; the ratio is the median
over pairs of runs, with its quartiles. Memory in MB is the peak above the process with the model
built, what is returned included; pages of the libraries' own files, which are mapped when their
code first runs, do not count. A forward pass, which no proof can do without, is measured alone
beside it; and as what is proven is which channel goes where, whatever the images' size, so are
example images of 96 x 96.
"""
# Of what the peak is measured, and on images of which side.
MEMORY = {
    "forward": ("forward", 224),
    "ours": ("ours", 224),
    "ours, 96 x 96": ("ours", 96),
    "theirs": ("theirs", 224),
}
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def build(name: str) -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None).eval()


def run_ours(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    steps = time_steps(model, x, {"apply": False, "apply and prove": True})
    trace, score, plan, apply, apply_and_prove = steps.values()
    unproven = trace + score + plan + apply
    return {
        "trace": trace,
        "score": score,
        "plan": plan,
        "apply": apply,
        "prove": apply_and_prove - apply,
        "without proof": unproven,
        "with proof": unproven - apply + apply_and_prove,
    }


def run_once(model: nn.Module, x: torch.Tensor) -> None:
    network = sec.trace(model, x)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    sec.apply(model, cut, x, network=network)


def run_forward(model: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        model(x)


def run_theirs(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    import torch_pruning as tp

    model = copy.deepcopy(model)  # it works in place; the copy is not timed
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    start = time.process_time()
    pruner = tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[last],
    )
    pruner.step()
    return {"all": time.process_time() - start}


def measure(name: str, repeats: int) -> dict[str, object]:
    torch.set_num_threads(1)
    model, x = build(name), torch.randn(1, 3, 224, 224)
    run_ours(build("resnet18"), x)  # warm up imports and caches of both
    run_theirs(build("resnet18"), x)
    ours: list[dict[str, float]] = []
    theirs: list[float] = []
    for turn in range(repeats):
        ours.append(run_ours(model, x))
        if turn == 0 or sum(theirs) < 60:  # one turn of a minute says enough
            theirs.append(run_theirs(model, x)["all"])
        gc.collect()
    medians = {key: statistics.median(run[key] for run in ours) for key in ours[0]}
    pairs = [tp / run["with proof"] for run, tp in zip(ours, theirs, strict=False)]
    spread = [min(run["without proof"] for run in ours), max(run["without proof"] for run in ours)]
    return {
        "model": name,
        "ours": medians,
        "spread": spread,
        "times as fast": statistics.median(pairs),
        "quartiles": statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3,
        "theirs": statistics.median(theirs),
        "their spread": [min(theirs), max(theirs)],
        "memory": {tool: peak(name, tool) for tool in MEMORY},
        "model bytes": sum(p.numel() * 4 for p in model.parameters()),
    }


def peak(name: str, tool: str) -> int:
    """Bytes of resident memory above the built model's, in a process of its own."""
    command = [sys.executable, __file__, "--memory", tool, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def report_memory(name: str, tool: str) -> None:
    torch.set_num_threads(1)
    way, side = MEMORY[tool]
    run = {"forward": run_forward, "ours": run_once, "theirs": run_theirs}[way]
    x = torch.randn(1, 3, side, side)
    run(build("resnet18" if way == "theirs" else "squeezenet1_1"), x)  # imports are not the model's
    model = build(name)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the run would use what the warm-up has freed
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
    before, mapped = resident("VmRSS"), resident("RssFile")
    run(model, x)
    print(resident("VmHWM") - before - (resident("RssFile") - mapped))


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def table(results: list[dict[str, object]]) -> str:
    columns = ("model", "trace", "score", "plan", "apply", "prove", "unproven", "proven")
    columns += ("Torch-Pruning", "faster, unproven", "faster, proven")
    columns += ("model, MB", "peak: forward", "ours, proven", "96 x 96", "Torch-Pruning")
    rows = []
    for result in results:
        ours, theirs, memory = result["ours"], result["theirs"], result["memory"]
        rows.append(
            [
                result["model"],
                *(f"{ours[key]:.3f}" for key in ("trace", "score", "plan", "apply", "prove")),
                f"{ours['without proof']:.2f} "
                f"({result['spread'][0]:.2f}-{result['spread'][1]:.2f})",
                f"{ours['with proof']:.2f}",
                f"{theirs:.2f} ({result['their spread'][0]:.2f}-{result['their spread'][1]:.2f})",
                f"**{theirs / ours['without proof']:.1f}x**",
                f"{result['times as fast']:.2f}x "
                f"({result['quartiles'][0]:.2f}-{result['quartiles'][2]:.2f})",
                f"{result['model bytes'] / 1e6:.0f}",
                *(f"{memory[tool] / 1e6:.0f}" for tool in MEMORY),
            ]
        )
    return markdown(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=MEMORY)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.memory:
        report_memory(arguments.models[0], arguments.memory)
        return
    results = []
    for name in arguments.models:
        results.append(measure(name, arguments.repeats))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    if tuple(arguments.models) == MODELS:
        says = SAYS.format(version=version("torch-pruning"))
        put(PAGE, "tool speed", f"{says}\n{table(results)}")


if __name__ == "__main__":
    main()
