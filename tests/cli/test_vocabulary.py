"""An option means the same in every command, and old spellings still work."""

import re

import pytest
import torch
import typer
from safetensors.torch import load_file

from secateurs.cli import ExitCode, main
from secateurs.cli.application import app
from secateurs.cli.vocabulary import HELP, MODELS, OLD, respell

COMMANDS = typer.main.get_command(app).commands
OWN = {"--export"}
"""Of one command, and no other's business."""


def options():
    """(option, command, its parameter), of all that is shown."""
    for command, one in COMMANDS.items():
        for parameter in one.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for spelling in parameter.opts:
                    yield spelling, command, parameter


def text_of(parameter):
    """The help without what is chosen where it is left out."""
    return re.sub(r"\s*\[dim\].*", "", parameter.help or "").strip()


def test_an_option_has_one_help_text_over_all_commands():
    texts = {}
    for spelling, _, parameter in options():
        texts.setdefault(spelling, set()).add(text_of(parameter))
    assert {name: found for name, found in texts.items() if len(found) > 1} == {}
    assert all(found != {""} for found in texts.values())


def test_a_help_text_is_of_one_option():
    names = {}
    for spelling, _, parameter in options():
        if spelling != "-o":
            names.setdefault(text_of(parameter), set()).add(spelling)
    assert {text: found for text, found in names.items() if len(found) > 1} == {}


def test_what_commands_share_is_in_the_vocabulary():
    used = {}
    for spelling, command, parameter in options():
        used.setdefault(spelling, {})[command] = text_of(parameter)
    for spelling, by_command in used.items():
        name = spelling.lstrip("-").replace("-", "_")
        if name in HELP:
            assert set(by_command.values()) == {HELP[name]}, spelling


def test_a_model_is_the_first_argument_of_every_command_that_takes_one():
    for command in MODELS:
        (argument,) = [p for p in COMMANDS[command].params if p.param_type_name == "argument"]
        assert argument.metavar == "MODEL"
        assert argument.help == HELP["model"]
        assert "--model" not in {name for name, where, _ in options() if where == command}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("run --model a --data b", "run a --data b"),
        ("run --model=a --fresh", "run a --fresh"),
        ("prune a --to macs=0.5", "prune a --budget macs=0.5"),
        ("export a --to onnx", "export a --to onnx"),
        ("ablate --model a --output d", "ablate a --directory d"),
        ("compare a --precision=bf16", "compare a --train-precision=bf16"),
        ("prune a --criterion -x", "prune a --criterion -x"),
        ("report d", "report d"),
        ("run --model", "run --model"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_spellings_of_before(typed, meant):
    assert respell(typed.split()) == meant.split()


def test_no_old_spelling_is_one_that_is_taken_now():
    shown = {(name, command) for name, command, _ in options()}
    for command, names in OLD.items():
        assert command in COMMANDS
        for old, new in names.items():
            assert (old, command) not in shown
            assert (new, command) in shown


def test_both_spellings_do_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = ("vanilla_cnn", "-o", "width=4", "--input", "1x1x8x8")
    found = []
    for number, option in enumerate(("--to", "--budget")):
        torch.manual_seed(0)
        output = ("--output", f"{number}.safetensors")
        assert main(["prune", *model, option, "params=0.5", *output]) == 0
        found.append(load_file(tmp_path / f"{number}.safetensors"))
    first, second = found
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    capsys.readouterr()
    assert main(["run"]) == ExitCode.BAD_INPUT
    assert "MODEL: expected a name" in capsys.readouterr().err
