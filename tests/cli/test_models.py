import torch

import torchvision_on_cpu  # noqa: F401 - before torchmetrics


def test_plain_resnet_loads_the_published_weights_and_presets_keep_through_layers():
    from secateurs import models
    from secateurs.cli.presets import PRESETS

    assert all(
        settings["through"] for settings in PRESETS.values() if settings["model"] == "resnet18"
    )
    with torch.device("meta"):
        plain, through = models.build("resnet50"), models.build("resnet50", through=True)
    counts = [sum(p.numel() for p in one.parameters()) for one in (plain, through)]
    assert counts[0] == 25_557_032  # torchvision's
    assert counts[1] > 40e6
