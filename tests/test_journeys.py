"""The scripts in examples/ run in an empty directory and print their results."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

import torchvision_on_cpu  # noqa: F401 - before transformers
from support.patience import until_quiet

PLACE = Path(__file__).parents[1] / "examples" / "journeys"
SAYS = {
    "checkpoint_and_folder": r"Accuracy on \d+ validation images: ([\d.]+) % before the cut",
    "comparison": r"farthest\\_from\\_the\\_median & ([\d.]+) ",
    "detector": r"overlap 0\.\d+ -> (0\.\d+)",
    "edge_device": r"small-int8\.onnx: ([\d.]+) % right",
    "hugging_face": r"largest difference in a fresh process: ([\d.e+-]+)",
}
AT_LEAST = {
    "checkpoint_and_folder": 90,
    "comparison": 30,
    "detector": 0.5,
    "edge_device": 85,
}
AT_MOST = {"hugging_face": 1e-5}


def test_every_example_is_run():
    assert {path.stem for path in PLACE.glob("*.py")} == set(SAYS)


@pytest.mark.filterwarnings("default")  # of what is shown beside it
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # In processes that a journey starts too: a torchvision that is built for CUDA must not be in
    # the way of Transformers.
    (tmp_path / "sitecustomize.py").write_text("import torchvision_on_cpu\n")
    paths = [str(tmp_path), str(Path(__file__).parent), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    until_quiet(lambda: runpy.run_path(str(PLACE / f"{name}.py"), run_name="__main__"))
    found = re.search(SAYS[name], capsys.readouterr().out)
    assert found
    assert AT_LEAST.get(name, 0) <= float(found[1]) <= AT_MOST.get(name, 100)
