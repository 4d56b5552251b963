"""``secateurs bench``: models timed side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs.cli.models import build_model
from secateurs.cli.options import (
    Classes,
    Device,
    InputOption,
    ModelOptions,
    Overwrite,
    WeightsOption,
)
from secateurs.cli.show import console, waiting
from secateurs.cli.vocabulary import HELP
from secateurs.errors import SecateursError, UnknownNameError
from secateurs.files import check_can_write, write_atomically
from secateurs.models.keras_files import is_keras_file

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL|FILE",
        help="Names of models; after the first one also weight files of it, such as 'secateurs "
        "prune' writes.",
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help=HELP["runtime"],
    ),
]
Batches = Annotated[list[int] | None, typer.Option("--batch", metavar="N", help=HELP["batch"])]
ThreadCounts = Annotated[
    list[int] | None,
    typer.Option("--threads", metavar="N", help=HELP["threads"]),
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the measurements as JSON.")]
Drawn = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the measurements as a figure (.png or .svg)."),
]

_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".h5")
"""Suffixes of weight files of the first model; a .keras file is a model of its own."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench_command)


def bench_command(
    models: Models,
    weights: WeightsOption = None,
    shape: InputOption = None,
    option: ModelOptions = None,
    classes: Classes = None,
    runtime: Runtimes = None,
    batch: Batches = None,
    threads: ThreadCounts = None,
    device: Device = "cpu",
    json: Json = None,
    figure: Drawn = None,
    overwrite: Overwrite = False,
) -> None:
    """Time models side by side: throughput, latency, memory, and speedup relative to MACs saved.

    The models are timed alternately after a warm-up, so that other load on the machine affects all
    of them alike. --runtime, --batch and --threads may be repeated.

    Try:

      secateurs bench resnet18 small.safetensors

      secateurs bench torchvision:mobilenet_v2 small.safetensors --runtime eager --runtime
      onnxruntime --batch 1 --batch 16
    """
    from secateurs.measurement import benchmarks

    for place in (json, figure):
        if place is not None:
            check_can_write(place, overwrite=overwrite)
    if figure is not None and figure.suffix not in (".png", ".svg"):
        raise SecateursError(f"--figure: expected a .png or .svg file; received {figure}")
    with waiting("timing"):
        named, example = _build_model(models, weights, shape, option or (), classes)
        found = benchmarks.bench(
            named,
            example,
            runtimes=runtime or ("eager",),
            batches=batch or (1,),
            threads=[count or None for count in threads or (1,)],
            device=device,
        )
    console().print(str(found), markup=False)
    if json is not None:
        found.save(json)
    if figure is not None:
        from secateurs.report.benchmark_figure import speedups
        from secateurs.report.style import render

        write_atomically(figure, render(speedups(found), figure.suffix[1:]))


def _build_model(
    given: list[str], weights: str | None, shape: str | None, option: Any, classes: int | None
) -> tuple[dict[str, Any], Any]:
    from secateurs import api

    first, *others = given
    dense, example, _ = build_model(first, option, classes, weights, shape)
    named = {first: dense}
    for other in others:
        if is_keras_file(other) and is_keras_file(first):
            named[other], _, _ = build_model(other, (), None, None, None)
        elif Path(other).exists():
            plain, _, _ = build_model(first, option, classes, None, shape)
            named[Path(other).name] = api.load(plain, Path(other))
        elif Path(other).suffix in _WEIGHTS:
            raise UnknownNameError(f"{other}: no such weight file; expected one of a cut {first}")
        else:
            named[other], _, _ = build_model(other, option, classes, None, shape)
    return named, example
