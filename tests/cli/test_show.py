import io
import re

import pytest
import torch
from rich.console import Console

import secateurs as sec
from secateurs import models
from secateurs.cli.show import error_line, print_network


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_network_fits_the_terminal(width):
    network = sec.trace(models.resnet50(width=4, stem="small"), torch.zeros(1, 3, 8, 8))
    out = io.StringIO()
    print_network(network, Console(file=out, width=width, force_terminal=True, no_color=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines[1:]) <= width
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {group.name for group in network.groups} <= first_words
    assert "it is the network's output" in " ".join(text.split())


def test_names_between_colons_are_no_emoji(capsys):
    error_line("mine:book: [bold]its code raised")
    assert capsys.readouterr().err == "secateurs: error: mine:book: [bold]its code raised\n"
