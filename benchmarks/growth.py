"""How the tool's work grows with the model: chains of layers, wide layers, a large language model.

    python benchmarks/growth.py --write     # also writes docs/benchmarks.md

Seconds of processor time on one thread. The language model is Llama with 8 billion parameters, from
its configuration, on the meta device: no weight exists, so it is traced and planned, not cut.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
import support.torchvision_on_cpu  # noqa: F401  (before transformers)
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
CHAINS = (10, 100, 1000, 3000)
WIDTHS = (256, 1024, 4096, 16384)


def chain(layers: int, width: int = 8) -> nn.Module:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(width * 16, 4)).eval()


def of_a_chain(layers: int) -> list[object]:
    model, x = chain(layers), torch.randn(1, 8, 4, 4)
    start = time.process_time()
    network = sec.trace(model, x)
    traced = time.process_time()
    cut = sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.5))
    planned = time.process_time()
    sec.apply(model, cut, x, network=network)
    times = np.diff([start, traced, planned, time.process_time()])
    each = f"{1e3 * times.sum() / layers:.1f} ms"
    return [f"chain of {layers} convolutions", *(f"{t:.2f}" for t in times), f"{each} a layer"]


def of_a_width(width: int) -> list[object]:
    with torch.device("meta"):
        hidden = nn.Linear(width, width)
        model = nn.Sequential(hidden, nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 10))
    return [f"width {width}", *_trace_and_plan(model.eval(), torch.randn(1, width)), "", ""]


def _trace_and_plan(model: nn.Module, inputs: object) -> list[str]:
    start = time.process_time()
    network = sec.trace(model, inputs)
    traced = time.process_time()
    order = {group.name: np.arange(len(group), dtype=float) for group in network.groups}
    sec.plan(network, order, sec.Budget(params=0.5))
    return [f"{traced - start:.2f}", f"{time.process_time() - traced:.2f}"]


def of_a_language_model() -> list[object]:
    import transformers

    configuration = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(configuration).eval()
    size = sum(p.numel() for p in model.parameters())
    tokens = torch.zeros(1, 8, dtype=torch.long, device="meta")
    times = _trace_and_plan(model, {"input_ids": tokens, "use_cache": False})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return [f"Llama, {size / 1e9:.2f} billion parameters", *times, "", f"{memory:.2f} GB at most"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--llama", action="store_true", help="the language model alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.llama:
        print("|".join(map(str, of_a_language_model())))
        return
    of_a_chain(10)  # the first of anything is slow
    rows = [of_a_chain(layers) for layers in CHAINS] + [of_a_width(width) for width in WIDTHS]
    # In a process of its own, so that its memory is its own.
    command = [sys.executable, __file__, "--llama"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows.append(done.stdout.strip().splitlines()[-1].split("|"))
    table = markdown(("model", "trace, s", "score and plan, s", "apply and prove, s", ""), rows)
    print(table)
    if arguments.write:
        put(PAGE, "growth", f"## Growth\n\n`python benchmarks/growth.py`: {_EXPLAINED}\n\n{table}")


_EXPLAINED = (
    "how the work grows. Seconds of processor time, one thread. Wide layers and the language model "
    "are on the meta device: traced and planned, not cut."
)

if __name__ == "__main__":
    main()
