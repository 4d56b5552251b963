"""``secateurs inspect``: what in a model can be pruned."""

from __future__ import annotations

import typer

from secateurs.cli.models import build_model
from secateurs.cli.options import Classes, InputOption, ModelName, ModelOptions, WeightsOption
from secateurs.cli.show import console, print_network, waiting


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect_command)


def inspect_command(
    model: ModelName,
    weights: WeightsOption = None,
    shape: InputOption = "1x3x224x224",
    option: ModelOptions = None,
    classes: Classes = None,
) -> None:
    """Show the groups of channels of a model that can be pruned, and what is frozen and why.

    Channels that must go together make a group; it is named after the layer whose filters they
    are. "parameters" and "MACs" say what share of the model's would go with the whole group.

    Try:

      secateurs inspect resnet50

      secateurs inspect torchvision:mobilenet_v2 --input 1x3x96x96

      secateurs inspect resnet18 --option width=16 --input 1x1x8x8
    """
    from secateurs import api

    with waiting("tracing"):
        network = api.trace(*build_model(model, option or (), classes, weights, shape)[:2])
    print_network(network, console())
