import sys

from secateurs.data import progress


def test_everything_is_passed_on_and_nothing_is_shown_where_nobody_looks(capsys):
    assert list(progress.show_progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_appears_on_a_terminal_once_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE_IN_SECONDS", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress.show_progress([1, 2], 2, "reading")) == [1, 2]
    assert "reading" in capsys.readouterr().err
    assert list(progress.show_progress([], 0, "nothing")) == []


def test_it_ends_with_whoever_stops_reading(monkeypatch):
    items = progress.show_progress(iter(range(10)), 10, "reading")
    assert next(items) == 0
    items.close()
    assert list(items) == []
