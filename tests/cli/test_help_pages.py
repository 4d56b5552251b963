"""Help pages name values, not Python's types, and wrap at the terminal's width."""

import re

import pytest
import typer

from secateurs.cli import main
from secateurs.cli.application import app

COMMANDS = ["", *typer.main.get_command(app).commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_python_type_is_shown(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main([*command.split(), "--help"])
    out = capsys.readouterr().out
    assert "--help" in out
    assert re.findall(r"<[^>]+>|\b(?:INTEGER|FLOAT|BOOLEAN|list\[)", out) == []


def test_values_have_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["run", "--help"])
    out = capsys.readouterr().out
    rows = dict(re.findall(r"--([a-z-]+) +(?:-o +)?([A-Z][A-Z=|,.]*)  ", out))
    shown = {name: rows.get(name) for name in ("option", "skip", "step", "batch-size", "ema")}
    assert shown == {
        "option": "NAME=VALUE",
        "skip": "NAME",
        "step": "SHARE",
        "batch-size": "N",
        "ema": "NUMBER",
    }


@pytest.mark.parametrize("width", [80, 160])
def test_a_paragraph_fills_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    main(["inspect", "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    start = next(n for n, line in enumerate(lines) if line.startswith("Channels that are coupled"))
    following = lines[start + 1].split()[0]
    assert len(lines[start]) + len(following) + 1 > width - 4
