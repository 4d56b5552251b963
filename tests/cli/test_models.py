import uuid

import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before torchmetrics

MINE = """
import numpy as np, torch
from torch import nn

def regressor():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

def numbers(seed=0):
    x = np.random.default_rng(seed).standard_normal((32, 6)).astype(np.float32)
    return (x, x[:, :1].copy()), (x[:16], x[:16, :1].copy()), (x[16:], x[16:, :1].copy())

def segmenter():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))

def masks(seed=0):
    x = np.random.default_rng(seed).standard_normal((8, 3, 6, 6)).astype(np.float32)
    y = x.argmax(1)
    y[:, 0] = 255
    return (x, y), (x, y)

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.act = nn.Embedding(10, 8), nn.ReLU()
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, input_ids):
        return {"logits": self.head(self.act(self.hidden(self.embed(input_ids))))}

def texts(seed=0):
    ids = torch.tensor(np.random.default_rng(seed).integers(0, 10, (16, 5)))
    batches = [{"input_ids": part, "labels": part} for part in ids.split(4)]
    return batches, batches

def embedder():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

def likes(seed=0):
    x = np.random.default_rng(seed).standard_normal((32, 6)).astype(np.float32)
    return (x, (x[:, 0] > 0).astype(np.int64)), (x, (x[:, 0] > 0).astype(np.int64))
"""


TASKS = {  # task: model, data, metric's name, whether lower is better
    "regression": ("regressor", "numbers", "mean squared error", True),
    "segmentation": ("segmenter", "masks", "mean IoU", False),
    "language-modelling": ("Words", "texts", "perplexity", True),
    "masked-language-modelling": ("Words", "texts", "perplexity", True),
    "embedding": ("embedder", "likes", "recall at 1", False),
}


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
