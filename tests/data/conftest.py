"""Fixtures for tests of data."""

from pathlib import Path

import pytest

from support.picture_files import COLOURS, save


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten blue and ten red images, in files of several kinds."""
    for label, colour in COLOURS.items():
        for number in range(8):
            save(tmp_path / label / f"{number}.png", colour)
        save(tmp_path / label / "more" / "deep.bmp", colour)
        save(tmp_path / label / "A.TIF", colour)
        (tmp_path / label / "notes.txt").write_text("no image")
        (tmp_path / label / ".hidden.png").write_text("no image")
    return tmp_path
