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
    shape: InputOption = None,
    option: ModelOptions = None,
    classes: Classes = None,
) -> None:
    """Show which groups of channels of a model can be pruned, and what is frozen and why.

    Channels that are coupled form a group, which is named after the layer whose filters they are.
    The columns "parameters" and "MACs" are the share of the model's that the group accounts for.

    Try:

      secateurs inspect resnet50

      secateurs inspect torchvision:mobilenet_v2 --input 1x3x96x96

      secateurs inspect resnet18 --option width=16 --input 1x1x8x8
    """
    from secateurs import api

    with waiting("tracing"):
        network = api.trace(*build_model(model, option or (), classes, weights, shape)[:2])
    print_network(network, console())
