"""Studies without figures, because drawing them takes longer than the rest."""

import pytest

from secateurs.study.directory import Study


@pytest.fixture
def without_drawing(monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: None)
