"""Studies whose figures are not drawn: that takes longer than all else."""

import pytest

from secateurs.study.directory import Study


@pytest.fixture
def without_drawing(monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: None)
