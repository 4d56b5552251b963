import re

from secateurs.channels.network_table import format_network
from support.networks_by_hand import grid, two_layers


def test_the_table_says_what_each_channel_group_takes_with_it():
    text = format_network(two_layers(notes=["A note."]))
    lines = text.splitlines()
    assert lines[0].startswith("by hand: 28 parameters, 100 MACs, ")
    assert "1 groups of 4 channels that can be pruned" in lines[0]
    row = next(line for line in lines if line.startswith("first "))
    assert re.split(r"\s{2,}", row.strip()) == [
        "first",
        "4",
        "first, norm, last",
        "100.0 %",
        "100.0 %",
    ]
    reasons = [line for line in lines if "it is the network's" in line]
    assert [re.split(r"\s{2,}", line.strip())[1:] for line in reasons] == [
        ["3", "first (input)"],
        ["2", "last"],
    ]
    assert lines[-1] == "A note."


def test_what_mixes_channels_has_a_column_of_its_own_where_anything_does():
    assert "inexact through" not in format_network(grid())
    assert "layer_norm over channels in norm" in format_network(two_layers(mixes=True))
