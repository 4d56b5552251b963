"""The information that a bug report needs."""

import os
import platform
from importlib.metadata import version

import pytest

from secateurs.cli import ExitCode, doctor, main


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras itself
def test_the_doctor_reports_a_sound_installation(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == ExitCode.FINE
    out, error = capsys.readouterr()
    assert error == ""
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert lines["secateurs"] == version("secateurs")
    assert lines["torch"] == version("torch")
    assert lines["python"].startswith(platform.python_version())
    assert f"{os.cpu_count()} cores" in lines["platform"]
    assert "from the cut by hand" in lines["pytorch"]
    assert "from the cut by hand" in lines["keras"]
    assert "read back" in lines["files"]
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_shown_in_one_line_and_fails_the_command(capsys, monkeypatch):
    def broken():
        raise OSError("no\nspace")

    monkeypatch.setattr(doctor, "TESTS", (("files", broken),))
    assert main(["doctor"]) == 1
    assert "FAILED: OSError: no space" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["delete_channels", "load"])
def test_a_wrong_cut_is_found(capsys, monkeypatch, wrong):
    import secateurs as sec

    name, tested = ("pytorch", dict(doctor.TESTS)["pytorch"])
    monkeypatch.setattr(doctor, "TESTS", ((name, tested),))
    made = getattr(sec, wrong)

    def off(*arguments):
        small = made(*arguments)
        small[0].weight.data[0] += 1
        return small

    monkeypatch.setattr(sec, wrong, off)
    assert main(["doctor"]) == 1
    assert "FAILED: RuntimeError" in capsys.readouterr().out


def test_the_version(capsys):
    assert main(["--version"]) == ExitCode.FINE
    assert capsys.readouterr().out == f"secateurs {version('secateurs')}\n"
