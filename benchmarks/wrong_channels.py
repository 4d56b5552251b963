"""How many wrong channels a proof finds: one channel's numbers of one tensor of a cut MobileNetV2.

    python benchmarks/wrong_channels.py pytorch
    KERAS_BACKEND=torch python benchmarks/wrong_channels.py keras

Half of the channels are removed; then, sixty times, one index of one tensor of the small model gets
the values of another index, and the proof is asked again. Running statistics and scales of batch
normalisation are random, since equal ones could not be mistaken for each other. Of what passes, the
outputs of the model are compared: a channel that is zero on these images changes nothing.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch
from torch import nn

import secateurs as sec
import support.torchvision_on_cpu  # noqa: F401  (before torchvision)
from secateurs.keras.proof import comparison as keras_proof
from secateurs.pytorch.proof import comparison as torch_proof

SIDE = 64


class InPyTorch:
    """torchvision's network, and the numbers of its cut."""

    def __init__(self, random: np.random.Generator) -> None:
        import torchvision

        torch.manual_seed(0)
        model = torchvision.models.mobilenet_v2(weights=None).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        self.images = torch.from_numpy(random.standard_normal((1, 3, SIDE, SIDE), np.float32))
        self.network, self.cut = halve(model, self.images)
        self.small = sec.apply(model, self.cut, self.images, network=self.network)
        state = self.small.state_dict()
        self.tensors = {n: t for n, t in state.items() if t.dim() and t.is_floating_point()}

    def prove(self, alive) -> None:
        torch_proof.prove(self.network, self.small, alive, self.images)

    def outputs(self) -> np.ndarray:
        with torch.inference_mode():
            return self.small(self.images).numpy()

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name].numpy().copy()

    def write(self, name: str, values: np.ndarray) -> None:
        self.tensors[name].copy_(torch.from_numpy(values))


class InKeras:
    """keras.applications' network, and the numbers of its cut."""

    def __init__(self, random: np.random.Generator) -> None:
        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNetV2(weights=None, input_shape=(SIDE, SIDE, 3))
        draws = {
            "gamma": lambda shape: random.uniform(0.5, 1.5, shape),
            "beta": lambda shape: random.normal(0, 0.3, shape),
            "moving_mean": lambda shape: random.normal(0, 0.1, shape),
            "moving_variance": lambda shape: random.uniform(0.5, 1.5, shape),
        }
        for variable in model.weights:
            if variable.name in draws:
                variable.assign(draws[variable.name](variable.shape))
        self.images = random.standard_normal((1, SIDE, SIDE, 3), np.float32)
        self.network, self.cut = halve(model, self.images)
        self.small = sec.apply(model, self.cut, self.images, network=self.network)
        self.tensors = {one.path: one for one in self.small.weights if one.shape}

    def prove(self, alive) -> None:
        keras_proof.prove(self.network, self.small, self.cut, alive, self.images)

    def outputs(self) -> np.ndarray:
        return keras.ops.convert_to_numpy(self.small(self.images, training=False))

    def read(self, name: str) -> np.ndarray:
        return np.array(keras.ops.convert_to_numpy(self.tensors[name]))

    def write(self, name: str, values: np.ndarray) -> None:
        self.tensors[name].assign(values)


def halve(model, images):
    network = sec.trace(model, images)
    return network, sec.plan(network, sec.score(network, "l1"), amount=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("framework", choices=("pytorch", "keras"))
    parser.add_argument("--tries", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    side = {"pytorch": InPyTorch, "keras": InKeras}[options.framework](random)
    alive = side.network.alive(side.network.removed_by(side.cut))
    right, names = side.outputs(), list(side.tensors)
    refused = without_effect = 0
    for _ in range(options.tries):
        name = names[random.integers(len(names))]
        values = side.read(name)
        axis = int(np.argmax(values.shape))
        to, source = random.choice(values.shape[axis], 2, replace=False)
        wrong = values.copy()
        np.moveaxis(wrong, axis, 0)[to] = np.moveaxis(values, axis, 0)[source]
        side.write(name, wrong)
        try:
            side.prove(alive)
        except sec.CutError:
            refused += 1
        else:
            changes = float(np.abs(side.outputs() - right).max())
            without_effect += changes == 0
            print(f"passed: {name}, index {to}: the outputs differ by {changes:.1e}")
        side.write(name, values)
    print(f"{refused} of {options.tries} refused; {without_effect} of the others change nothing")


if __name__ == "__main__":
    main()
