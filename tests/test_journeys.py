"""The journeys of examples/ arrive, in an empty directory, and say what they got."""

import re
import runpy
from pathlib import Path

import pytest

import torchvision_on_cpu  # noqa: F401 - before transformers

PLACE = Path(__file__).parents[1] / "examples" / "journeys"
SAYS = {
    "checkpoint_and_folder": r"Accuracy on \d+ validation images: ([\d.]+) % before the cut",
    "comparison": r"farthest\\_from\\_the\\_median & ([\d.]+) ",
    "detector": r"overlap 0\.\d+ -> (0\.\d+)",
}
AT_LEAST = {
    "checkpoint_and_folder": 90,
    "comparison": 30,
    "detector": 0.5,
}


def test_every_journey_is_made():
    assert {path.stem for path in PLACE.glob("*.py")} == set(SAYS)


@pytest.mark.filterwarnings("default")  # of what is shown beside it
@pytest.mark.parametrize("name", SAYS)
def test_a_journey_arrives(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(PLACE / f"{name}.py"), run_name="__main__")
    found = re.search(SAYS[name], capsys.readouterr().out)
    assert found
    assert float(found[1]) >= AT_LEAST[name]
