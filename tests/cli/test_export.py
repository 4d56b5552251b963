import pytest

from secateurs.cli import ExitCode, main

CNN = ("vanilla_cnn", "-o", "width=8", "--input", "1x1x8x8")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def said(capsys):
    caught = capsys.readouterr()
    return caught.out, caught.err


def test_export_writes_what_it_says(place, capsys):
    assert main(["export", *CNN, "--to", "safetensors"]) == 0
    assert "vanilla_cnn.safetensors: " in said(capsys)[0]
    assert main(["export", *CNN, "--to", "safetensors"]) == ExitCode.BAD_INPUT
    assert "--overwrite" in said(capsys)[1]
    assert main(["export", *CNN, "--to", "safetensors", "--overwrite"]) == 0
