"""Names and help texts of options that several commands share, and their earlier spellings.

An option has the same meaning and the same help text in every command; a test checks this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from secateurs.training.task import METRICS, TASKS

HELP: Mapping[str, str] = MappingProxyType(
    {
        "model": "Model to load: resnet18, -34, -50, -101, -152, vanilla_cnn, torchvision:NAME, "
        "timm:NAME, transformers:DIRECTORY, a .keras file, or a function of your own: "
        "package.module:function or FILE.py:FUNCTION.",
        "weights": "Weights of the model: safetensors (cut or dense), or a PyTorch checkpoint.",
        "option": "Option of the model, such as width=16, stem=small or through=true; may be "
        "repeated.",
        "data": "Data set: digits, fashion-mnist, vehicles, folder:PATH (grey:PATH for one "
        "channel), text:PATH (a text file or a folder of them, one example per line), or a "
        "function of your own: package.module:function or FILE.py:FUNCTION. With --task, the "
        "function may return (train, validation, test) batches of any kind.",
        "size": "Height and width of the images in pixels (default: unchanged); for texts, the "
        "number of tokens per example.",
        "tokenizer": "Directory of the tokenizer for text data, if the model's own directory has "
        "none.",
        "normalise": "Normalisation of the images: imagenet, data (mean and deviation of the "
        "images), none, or MEAN/STD of pixels in 0 to 1. Default: the model's own, if it has "
        "weights and declares one; otherwise data.",
        "crop": "Fraction of each image that the centre crop keeps; for folders of images.",
        "images": "Number of images to use: training images for calibration, validation images "
        "for measurement.",
        "budget": "What may remain: channels, params, macs, size_mb or peak_memory_mb, each a "
        "fraction of the dense model (below 1) or an absolute value. Beside size_mb, the file's "
        "precision= (float16, int8) and format= (onnx, ...). Or latency (a fraction), latency_ms, "
        "throughput or speedup, with runtime=, threads= and batch=. Or drop, the largest loss of "
        "accuracy. Separate several with commas.",
        "criterion": "How channels are ranked within their group: a name (see: secateurs criteria) "
        "or a function of your own, package.module:function or FILE.py:FUNCTION. Default: how "
        "well a least-squares fit of the other channels replaces each; l1 where widths are not "
        "allocated by error curves.",
        "amounts": "Shares to remove; may be repeated or separated by commas.",
        "unit": "Quantity that shares refer to: params, macs, channels or size_mb.",
        "repair": "After a cut, fit the remaining weights by least squares to the activations of "
        "the model before it, on the calibration images.",
        "rounds": "Number of pruning rounds: the maximum of a study; in a comparison, the number "
        "used to reach each amount, each scored anew and trained (1 is one-shot).",
        "floor": "Minimum width of a group: a fraction of its channels in the dense model, or a "
        "number of channels if 1 or more.",
        "scope": "Scope of the ranking: the same share from every group, or the lowest scores in "
        "the whole network.",
        "rewind": "Training after a cut: with the learning rates of the end of dense training "
        "(learning-rate), from the weights of that time too (weights), or all of dense training "
        "from the initial weights (lottery).",
        "calibration_batches": "Number of training batches used by data-dependent criteria and by "
        "repair.",
        "distil": "Training on the dense model's outputs after the cut: a number of steps (300) or "
        "a time (60s); needs --data.",
        "task": f"Task of the model: {', '.join(TASKS)}. Default: image classification.",
        "metric": "Metric that models are chosen by (default: the task's own): "
        f"{', '.join(METRICS)}.",
        "uniform": "Use the same width in all layers of a kind, as a Transformers configuration "
        "can express it, so that from_pretrained loads the result.",
        "directory": "Output directory; named after the command, or the model and the data, by "
        "default.",
        "output": "Output file; named after the model by default.",
        "overwrite": "Overwrite existing files.",
        "fresh": "Start over instead of reusing earlier results.",
        "resume": "Directory of the run to continue; a study that has ended continues with more "
        "--rounds, a looser --tolerance, more --patience or another --budget.",
        "outputs": "Outputs of the model that you use, by name or number, separated by commas "
        "(logits); channels that only the others need may be removed.",
        "trust": "With --resume: run the code it refers to, even if that has changed.",
        "quiet": "Print only the result.",
        "int8": "Write an 8-bit ONNX file too, calibrated on --data.",
        "runtime": "Runtime that models are timed in: eager, channels-last, compile, onnxruntime "
        "or openvino.",
        "batch": "Batch size, in images per call.",
        "threads": "Number of CPU threads; 0 is the runtime's default.",
    }
)
"""Name of an option -> what it means, in every command."""

VALUES: Mapping[str, str] = MappingProxyType(
    {
        "amounts": "A,B,...",
        "budget": "BUDGET",
        "calibration_batches": "N",
        "criterion": "NAME",
        "crop": "SHARE",
        "data": "NAME",
        "directory": "DIR",
        "floor": "SHARE|N",
        "metric": "NAME",
        "normalise": "HOW",
        "option": "NAME=VALUE",
        "outputs": "NAMES",
        "preset": "NAME",
        "ray": "ADDRESS",
        "resume": "DIR",
        "shift": "PIXELS",
        "size": "PIXELS",
        "skip": "NAME",
        "step": "SHARE",
        "stem": "NAME",
        "strategies": "A,B,...",
        "task": "NAME",
        "test": "SHARE",
        "tokenizer": "DIR",
        "track": "NAME",
        "validation": "SHARE",
        "weights": "FILE",
    }
)
"""Name of an option -> what a help page calls its value, where its type says too little."""

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
"""Commands that take one MODEL; in some it was formerly ``--model``."""

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
"""Command -> former spelling -> present spelling."""


def respell(given: Sequence[str]) -> list[str]:
    """Replace former spellings of options in a command line.

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
