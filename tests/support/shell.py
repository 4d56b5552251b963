"""What tests of the command line stand on: a small model, modules of a user's, both streams."""

CNN = ("vanilla_cnn", "-o", "width=8", "--input", "1x1x8x8")

FACTORIES = """
import numpy as np
from torch import nn
from secateurs import data

def no_channels():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        raise RuntimeError("out of order")

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def one_class():
    return data.from_arrays((np.zeros((9, 1, 8, 8)), np.ones(9, int)))

def no_images():
    return data.from_arrays((np.zeros((0, 1, 8, 8)), np.zeros(0, int)))
"""


def said(capsys):
    """(what was printed, what was printed as an error) since the last call."""
    caught = capsys.readouterr()
    return caught.out, caught.err
