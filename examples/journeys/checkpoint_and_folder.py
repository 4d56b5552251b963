"""An engineer has a checkpoint and a folder of images, and wants a smaller model: no Python."""

import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from secateurs import data, models
from secateurs.cli import main as secateurs

MODEL = "vanilla_cnn -o width=8 -o hidden=32"
FOLDER = "--data grey:photos --size 16 --normalise none"
EPOCHS = 15
COMMANDS = (
    # what could be had, at three sizes
    f"frontier {MODEL} --weights mine.pt {FOLDER} --images 64 --shares 0.75,0.5,0.25",
    # one of them: cut, proven, repaired without labels, judged on the folder's validation images
    f"prune {MODEL} --weights mine.pt {FOLDER} --images 128 --budget macs=0.5 "
    "--output small.safetensors --export onnx",
    # and how much faster it is here, measured in turns
    f"bench {MODEL} small.safetensors --weights mine.pt --input 1x1x16x16 --classes 10 "
    "--runtime onnxruntime --threads 1",
)


def prepare() -> None:
    """What the engineer has: digits as PNG files, one folder a class, and a trained model."""
    digits = data.renormalise(data.load("digits", size=16), "none")
    for part, split in (("train", digits.train), ("val", digits.validation)):
        images, labels = split.batch(slice(0, 600))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = Path("photos", part, digits.classes[label])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(255 * image[0])).save(folder / f"{number}.png")
    torch.manual_seed(0)
    model = models.vanilla_cnn(10, in_channels=1, size=16, width=8, hidden=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    images, labels = (torch.from_numpy(rows) for rows in digits.train.batch(slice(0, 1200)))
    for _ in range(EPOCHS):
        for at in torch.randperm(len(labels)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[at]), labels[at]).backward()
            optimizer.step()
    torch.save({"epoch": EPOCHS, "model": model.state_dict()}, "mine.pt")


def main() -> None:
    """Run the commands one after the other, as they would be typed."""
    prepare()
    for command in COMMANDS:
        print(f"\n$ secateurs {command}", flush=True)
        status = secateurs(shlex.split(command))
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
