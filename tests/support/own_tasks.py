"""A user's models and data for each predefined task, as a module for commands."""

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


def task_options(mine, task):
    """Words of a command line: this module's model and data, and the task."""
    model, data, _, _ = TASKS[task]
    return ("--model", f"{mine}:{model}", "--data", f"{mine}:{data}", "--task", task)
