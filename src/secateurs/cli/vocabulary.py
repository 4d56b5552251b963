"""What options of several commands are called and mean: each once, and how they were spelt before.

An option has one meaning and one help text over all commands, which a test holds them to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from secateurs.training.task import METRICS, TASKS

HELP: Mapping[str, str] = MappingProxyType(
    {
        "model": "resnet18, -34, -50, -101, -152, vanilla_cnn, torchvision:NAME, timm:NAME, "
        "transformers:DIRECTORY, a .keras file, or a function of your own: "
        "package.module:function or FILE.py:FUNCTION.",
        "weights": "Weights of the model: safetensors (cut or dense), or a PyTorch checkpoint.",
        "option": "NAME=VALUE: an option of the model, such as width=16, stem=small or "
        "through=true; may be repeated.",
        "data": "digits, fashion-mnist, vehicles, folder:PATH (grey:PATH for one channel), "
        "text:PATH (a file or folder of texts, one a line), or a function of your own: "
        "package.module:function or FILE.py:FUNCTION; for a --task it may return (train, "
        "validation, test) of batches of any kind.",
        "size": "Height and width of the data's images in pixels, their own if left out; of "
        "texts, tokens of each.",
        "tokenizer": "Of texts: a directory with a tokenizer, if the model's own has none.",
        "normalise": "imagenet, data (the images' own mean), none, or MEAN/STD of pixels in 0 to "
        "1. If left out, as the model was trained, where it has weights and says how; else data.",
        "crop": "Of a folder: share of each image that the middle crop keeps.",
        "images": "Images of the data to look at: of training to calibrate with, of validation to "
        "measure on.",
        "budget": "What may remain: channels, params, macs, size_mb, peak_memory_mb, each a "
        "fraction of the dense model (below 1) or absolute; beside size_mb the file's precision= "
        "(float16, int8) and format= (onnx, ...); latency (a fraction), latency_ms, throughput, "
        "speedup, with runtime=, threads=, batch= beside them; drop, the largest loss of accuracy. "
        "Several with commas between them.",
        "criterion": "What ranks channels in their groups: a name (see: secateurs criteria), or a "
        "function of your own, package.module:function or FILE.py:FUNCTION. If left out, how well "
        "a fit of the others can make up for each; l1 where groups are not cut by curves.",
        "amounts": "Shares to remove. May be repeated, or given with commas.",
        "unit": "What shares are of: params, macs, channels or size_mb.",
        "repair": "After a cut, fit the weights that stay to what the model gave before it, on the "
        "calibration images.",
        "rounds": "Pruning rounds: of a study the most; of a comparison how many reach each "
        "amount, each scored anew and trained, 1 being one shot.",
        "floor": "Never leave a group with less: a share of its channels in the dense model, or a "
        "number of channels if 1 or more.",
        "scope": "Whether to take the same share from every group, or the lowest scores in the "
        "whole network.",
        "rewind": "Train after a cut as dense training ended: at its learning rates; or with the "
        "survivors' weights of that time too (weights); or all of it again (lottery).",
        "calibration_batches": "Training batches shown to a criterion that needs data, and to "
        "repair.",
        "distil": "Train on towards the dense model's answers: 300 steps, or 60s; needs --data.",
        "task": f"What the model is for: {', '.join(TASKS)}. If left out, to classify images.",
        "metric": f"What models are chosen by; the task's own. {', '.join(METRICS)}.",
        "uniform": "The same width in every layer of a kind, as the configuration of a "
        "Transformers model can say it: from_pretrained loads what is left.",
        "directory": "For what is written; named after the command, or the model and the data.",
        "output": "The file that is written; named after the model if left out.",
        "overwrite": "Replace files that are there.",
        "fresh": "Start over, whatever is kept of before.",
        "resume": "Go on with what was begun in this directory; a study that has ended, with more "
        "--rounds, a looser --tolerance, more --patience or another --budget.",
        "outputs": "The outputs that you use, by name or number, with commas between them "
        "(logits); channels of the others may go.",
        "trust": "With --resume: run the code that it names, though it changed.",
        "quiet": "Print the result only.",
        "int8": "An eight-bit ONNX file as well, calibrated on --data.",
        "runtime": "Where models are timed: eager, channels-last, compile, onnxruntime or "
        "openvino.",
        "batch": "Images a call.",
        "threads": "Of the processor; 0 is the runtime's own.",
    }
)
"""Name of an option -> what it means, in every command."""

MODELS = (
    "run",
    "compare",
    "sensitivity",
    "ablate",
    "prune",
    "frontier",
    "export",
    "profile",
    "inspect",
)
"""Commands of one MODEL, which was ``--model`` in some."""

OLD: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "prune": {"--to": "--budget"},
        "run": {"--precision": "--train-precision", "--to": "--budget"},
        "compare": {"--precision": "--train-precision"},
        "sensitivity": {"--output": "--directory"},
        "ablate": {"--output": "--directory"},
        "frontier": {"--output": "--directory"},
    }
)
"""Command -> spellings from before -> those of now."""


def respell(given: Sequence[str]) -> list[str]:
    """A command line with the spellings of now.

    >>> respell(["run", "--data", "digits", "--model", "vanilla_cnn"])
    ['run', 'vanilla_cnn', '--data', 'digits']
    >>> respell(["prune", "resnet18", "--to=macs=0.5"])
    ['prune', 'resnet18', '--budget=macs=0.5']
    """
    if not given:
        return []
    command, *rest = given
    names = OLD.get(command, {})
    found: list[str] = []
    models: list[str] = []
    words = iter(rest)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--model" and command in MODELS:
            models.append(value if equals else next(words, word))
        elif option.startswith("--"):
            found.append(names.get(option, option) + equals + value)
        else:
            found.append(word)
    return [command, *models, *found]
