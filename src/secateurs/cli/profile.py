"""``secateurs profile``: how long cuts of a model take on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from secateurs.cli.models import build_model
from secateurs.cli.options import (
    BatchSize,
    Classes,
    Device,
    Fresh,
    InputOption,
    ModelName,
    ModelOptions,
    RuntimeName,
    Threads,
    WeightsOption,
)
from secateurs.cli.show import console, waiting

Cuts = Annotated[int, typer.Option(metavar="N", help="Number of cuts with random widths to time.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("profile")(profile_command)


def profile_command(
    model: ModelName,
    weights: WeightsOption = None,
    shape: InputOption = None,
    option: ModelOptions = None,
    classes: Classes = None,
    runtime: RuntimeName = "eager",
    batch: BatchSize = None,
    threads: Threads = 1,
    device: Device = "cpu",
    cuts: Cuts = 16,
    fresh: Fresh = False,
) -> None:
    """Fit a latency model of cuts on this machine, for budgets of time.

    Cuts of random widths are made and timed beside the dense model. The measurements are stored:
    'secateurs prune --budget latency=0.5' with the same runtime, batch and threads uses them.

    Try:

      secateurs profile torchvision:mobilenet_v2 --runtime onnxruntime

      secateurs profile resnet50 --threads 4 --batch 16
    """
    from secateurs.planning import profiling

    with waiting("timing cuts"):
        dense, example, _ = build_model(model, option or (), classes, weights, shape)
        found = profiling.profile(
            dense,
            example,
            runtime=runtime,
            batch=batch,
            threads=threads or None,
            device=device,
            cuts=cuts,
            fresh=fresh,
        )
    console().print(str(found), markup=False)
