import torch

import secateurs as sec
from secateurs import models
from secateurs.cli import main


def read_output(capsys):
    out, error = capsys.readouterr()
    return out, error


def test_inspect_prints_the_network(capsys):
    assert main(["inspect", "resnet18", "-o", "width=4", "--input", "1x1x8x8"]) == 0
    torch.manual_seed(0)
    dense = models.resnet18(width=4, in_channels=1, stem="small")
    expected = str(sec.trace(dense, torch.zeros(1, 1, 8, 8)))
    assert read_output(capsys)[0].strip() == expected.strip()
