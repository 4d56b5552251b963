from pathlib import Path

from secateurs.data.cache import cache_folder


def test_the_cache_is_where_the_environment_says_or_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "secateurs"
    assert not cache_folder().exists()  # it is made when something is kept there
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/secateurs")
