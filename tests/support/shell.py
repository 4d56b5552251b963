"""Fixtures for tests of the command line: a small model, user modules, both streams."""

ON_DIGITS = (
    *("--data", "digits", "--limit", "200", "--no-measure-speed"),
    *("--train-batches", "6", "--fine-tune-batches", "3", "--batch-size", "32"),
    *("--learning-rate", "0.02", "--step", "0.2", "--rounds", "2", "--tolerance", "0.9"),
)

SMALL = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12", *ON_DIGITS)

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


def read_output(capsys):
    """(what was printed, what was printed as an error) since the last call."""
    caught = capsys.readouterr()
    return caught.out, caught.err
