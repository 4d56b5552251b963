"""The Python and the commands on every page of docs/howto run, in order."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchvision_on_cpu  # before whatever imports torchvision
from secateurs.cli import main

PAGES = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def have_nothing():
    """The page makes all that it needs."""


def have_checkpoint_and_photos():
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    torch.save(shufflenet_v2_x0_5(num_classes=2).state_dict(), "mine.pt")
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 6)):
        for label in ("cat", "dog"):
            folder = Path("photos", part, label)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def have_a_yolo_and_boxes():
    ultralytics = pytest.importorskip("ultralytics")
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            Path(kind, part).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((96, 96, 3), 40, np.uint8)
            left = 10 + 5 * number
            pixels[20:50, left : left + 30] = (200, 50, 50)
            Image.fromarray(pixels).save(f"images/{part}/{number}.png")
            box = ((left + 15) / 96, 35 / 96, 30 / 96, 30 / 96)
            Path("labels", part, f"{number}.txt").write_text("0 " + " ".join(map(str, box)))
    Path("mine.yaml").write_text(
        f"path: {Path.cwd()}\ntrain: images/train\nval: images/val\nnames: [box]\n"
    )
    ultralytics.YOLO("yolo11n.yaml").save("mine.pt")


PREPARED = {
    "index.md": have_nothing,
    "howto/folder-to-onnx.md": have_checkpoint_and_photos,
    "howto/lightning.md": have_nothing,
    "howto/hugging-face.md": have_nothing,
    "howto/detector.md": torchvision_on_cpu.let_detectors_run,
    "howto/own-criterion.md": have_nothing,
    "howto/yolo.md": have_a_yolo_and_boxes,
}


def test_every_how_to_is_run():
    found = {f"howto/{path.name}" for path in (PAGES / "howto").glob("*.md")}
    assert found == {name for name in PREPARED if name.startswith("howto/")}


def run_command(line, capsys):
    program, *arguments = shlex.split(line)
    assert program == "secateurs"
    status = main(arguments)
    assert status == 0, f"{line}\n{capsys.readouterr().err[-1500:]}"


@pytest.mark.filterwarnings("default")  # of what is shown beside it
@pytest.mark.parametrize("name", PREPARED)
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    PREPARED[name]()
    namespace = {"__name__": "__main__"}
    for kind, code in BLOCK.findall((PAGES / name).read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(code, name, "exec"), namespace)  # noqa: S102 - our own pages
        else:
            for line in code.splitlines():
                run_command(line.removeprefix("$ "), capsys)
