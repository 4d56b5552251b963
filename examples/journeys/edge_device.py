"""An edge engineer: a model and images; less time on this machine, as ONNX, in int8 too."""

import numpy as np
import onnxruntime
import torch

import secateurs as sec
from secateurs import data, models

EPOCHS = 15


def prepare() -> tuple[torch.nn.Module, data.Data]:
    """What the engineer has: a trained model, and images like those of the device."""
    digits = data.load("digits", size=16)
    torch.manual_seed(0)
    model = models.vanilla_cnn(10, in_channels=1, size=16, width=16, hidden=64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    images, labels = (torch.from_numpy(rows) for rows in digits.train.batch(slice(0, 1200)))
    for _ in range(EPOCHS):
        for at in torch.randperm(len(labels)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[at]), labels[at]).backward()
            optimizer.step()
    return model.eval(), digits


def share_right(path: str, images: np.ndarray, labels: np.ndarray) -> float:
    """What a file gets right, in ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    answers = session.run(None, {name: images})[0]
    return float((answers.argmax(1) == labels).mean())


def main() -> None:
    """Cut to a time, repair without labels, write the files, and ask their runtime."""
    model, digits = prepare()
    images, labels = digits.validation.batch(slice(0, 200))
    calibration = digits.train.batch(slice(0, 256))[0]
    budget = "latency=0.7,runtime=onnxruntime,threads=1"
    pruned = sec.prune(model, images[:1], budget, calibration=calibration)
    written = sec.export(pruned.model, "small.onnx", images[:1], int8=calibration)
    print(written)
    for name in ("small.onnx", "small-int8.onnx"):
        print(f"{name}: {100 * share_right(name, images, labels):.1f} % right")


if __name__ == "__main__":
    main()
