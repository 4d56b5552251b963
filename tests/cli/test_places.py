"""An output path that cannot be written is reported before a model is built."""

from pathlib import Path

import pytest

from secateurs import models
from secateurs.cli import ExitCode, main
from support.shell import CNN, read_output

ON_DIGITS = ("vanilla_cnn", "--data", "digits")
OF_DIRECTORIES = {
    "sensitivity": ("sensitivity", *ON_DIGITS, "--directory"),
    "ablate": ("ablate", *ON_DIGITS, "--directory"),
    "frontier": ("frontier", *ON_DIGITS, "--directory"),
}
OF_FILES = {
    "prune": (("prune", *CNN, "--budget", "macs=0.5", "--output"), ".safetensors"),
    "export": (("export", *CNN, "--output"), ".onnx"),
    "bench --json": (("bench", *CNN, "--json"), ".json"),
    "bench --figure": (("bench", *CNN, "--figure"), ".png"),
}
IMPOSSIBLE = ("file", "file/below", "/proc/there", "a\0b", "x" * 300)


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    def build_nothing(*_, **__):
        raise AssertionError("a model was built before its place was looked at")

    monkeypatch.setattr(models, "build", build_nothing)
    (place / "file").write_text("mine")
    (place / "folder.d").mkdir()
    return place


def files_in(place):
    """All but what matplotlib keeps of fonts when it is first imported."""
    return sorted(
        path for path in place.rglob("*") if (place / "cache") not in (path, *path.parents)
    )


def check(arguments, place, capsys):
    before = files_in(place)
    assert main(arguments) == ExitCode.BAD_INPUT, capsys.readouterr().err
    out, error = read_output(capsys)
    assert (out, error.count("\n")) == ("", 1)
    assert files_in(place) == before
    assert (place / "file").read_text() == "mine"
    return error


@pytest.mark.parametrize("directory", IMPOSSIBLE)
@pytest.mark.parametrize("command", OF_DIRECTORIES)
def test_a_directory_that_cannot_be(command, directory, here, capsys):
    error = check([*OF_DIRECTORIES[command], directory], here, capsys)
    assert repr(directory)[1:-1] in error or directory in error


@pytest.mark.parametrize("name", IMPOSSIBLE[1:])
@pytest.mark.parametrize("command", OF_FILES)
def test_a_file_that_cannot_be(command, name, here, capsys):
    arguments, suffix = OF_FILES[command]
    check([*arguments, name + suffix], here, capsys)


@pytest.mark.parametrize("command", OF_FILES)
def test_a_file_that_is_there_and_a_directory_of_its_name(command, here, capsys):
    arguments, suffix = OF_FILES[command]
    Path(f"there{suffix}").write_text("mine")
    assert "exists already; replace it with --overwrite" in check(
        [*arguments, f"there{suffix}"], here, capsys
    )
    Path(f"folder{suffix}").mkdir()
    assert "received that of a directory" in check(
        [*arguments, f"folder{suffix}", "--overwrite"], here, capsys
    )


@pytest.mark.parametrize("more", [(), ("--int8",)])
@pytest.mark.parametrize("command", ["prune", "export"])
def test_the_file_for_a_runtime_beside_the_weights(command, more, here, capsys):
    there = "small-int8.onnx" if more else "small.onnx"
    Path(there).write_text("mine")
    arguments = {
        "prune": ("prune", *CNN, "--budget", "macs=0.5", "--export", "onnx"),
        "export": ("export", *CNN),
    }[command]
    output = "small.onnx" if command == "export" else "small.safetensors"
    error = check([*arguments, "--data", "digits", "--output", output, *more], here, capsys)
    assert f"{there}: exists already" in error
