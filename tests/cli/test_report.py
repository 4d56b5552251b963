from pathlib import Path

import pytest

from secateurs.cli import ExitCode, main
from secateurs.study.directory import Study


@pytest.fixture
def browser(monkeypatch):
    opened = []

    class Opened:
        def __init__(self, directory):
            opened.append(Path(directory))

        def report(self):
            return opened[-1] / "report" / "report.html"

    monkeypatch.setattr(Study, "open", classmethod(lambda cls, directory: Opened(directory)))
    return opened


def test_the_page_is_drawn_and_its_place_is_told(browser, tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == ExitCode.FINE
    assert browser == [tmp_path]
    assert capsys.readouterr().out.strip() == str(tmp_path / "report" / "report.html")


def test_a_directory_without_a_study_is_refused_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error
