import uuid

import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before torchmetrics
from support.own_tasks import MINE, TASKS


@pytest.fixture
def mine(tmp_path, monkeypatch):
    name = f"mine_{uuid.uuid4().hex}"  # modules are imported once
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return name


def told(mine, task):
    model, data, _, _ = TASKS[task]
    return ("--model", f"{mine}:{model}", "--data", f"{mine}:{data}", "--task", task)


def test_plain_resnet_loads_the_published_weights_and_presets_keep_through_layers():
    from secateurs import models
    from secateurs.cli.presets import PRESETS

    assert all(told["through"] for told in PRESETS.values() if told["model"] == "resnet18")
    with torch.device("meta"):
        plain, through = models.build("resnet50"), models.build("resnet50", through=True)
    counts = [sum(p.numel() for p in one.parameters()) for one in (plain, through)]
    assert counts[0] == 25_557_032  # torchvision's
    assert counts[1] > 40e6
