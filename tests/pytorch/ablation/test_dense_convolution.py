"""Convolutions over small maps as matrix products, against the convolutions themselves."""

import pytest
import torch

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.ablation.dense_convolution import DenseConvolution, is_mostly_padding
from secateurs.pytorch.ablation.downstream import channels_last
from secateurs.pytorch.ablation.oracle import ablate_channels
from secateurs.pytorch.ablation.removal import Removals
from secateurs.pytorch.statistics.loss import PerExampleLoss
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from support.small_networks import CLASSES, images, labels


@pytest.mark.parametrize("count", [1, 64, 70])
@pytest.mark.parametrize(
    ("shape", "space", "options"),
    [
        ((5, 4, 3, 3), (2, 2), {"padding": [1, 1]}),
        ((5, 4, 3, 3), (1, 1), {"padding": [1, 1]}),
        ((5, 4, 3, 3), (1, 3), {"padding": [2, 1], "stride": [2, 1]}),
        ((6, 2, 7, 7), (4, 3), {"padding": [3, 3], "groups": 3, "bias": None}),
        ((5, 4, 3, 2), (2, 2), {"padding": [2, 1], "dilation": [2, 1]}),
    ],
)
def test_a_product_is_the_convolution(shape, space, options, count):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    inputs = shape[1] * options.get("groups", 1)
    x = channels_last(torch.randn(count, inputs, *space))
    given = {"input": x, "weight": weight, "bias": torch.randn(len(weight))} | options
    call = Call(aten.conv2d.default, (), given)
    assert is_mostly_padding(call, space)
    received = DenseConvolution(call, space)(x)
    torch.testing.assert_close(received, call.run(), atol=1e-5, rtol=1e-5)
    assert received.is_contiguous(memory_format=torch.channels_last)


def test_only_kernels_larger_than_the_map_are_mostly_padding():
    call = Call(aten.conv2d.default, (torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3)), {})
    assert [is_mostly_padding(call, space) for space in ((2, 4), (3, 3), (4, 4))] == [True] + 2 * [
        False
    ]
    call = Call(aten.conv1d.default, (torch.zeros(1, 2, 2), torch.zeros(2, 2, 3)), {})
    assert not is_mostly_padding(call, (2,))


class Shrinking(torch.nn.Module):
    """Maps of 6 x 6, 3 x 3 and 2 x 2; the last has fewer places than its kernels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.second = torch.nn.Conv2d(6, 8, 3, 2, padding=1)
        self.third = torch.nn.Conv2d(8, 8, 3, 2, padding=1)
        self.fourth = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.fifth = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, CLASSES)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        x = torch.relu(self.third(x))
        x = torch.relu(x + self.norm(self.fourth(x)))
        x = torch.relu(x + self.fifth(x))  # reads channels that are gone among others that changed
        return self.head(x.mean((2, 3)))


def test_ablation_takes_them_where_they_are_less_work_and_stays_exact():
    model, x, y = Shrinking().eval(), images(), labels()
    network = sec.trace(model, x[:1])
    routes = Removals(network, PerExampleLoss(None, "test"), CalibrationBatch(x, y)).routes
    steps = routes.of(network.groups[0]).steps
    convolutions = [step for step in steps if step.function is aten.conv2d.default]
    products = [routes.product(step) is not None for step in convolutions]
    assert products == [False, False, True, True]
    ablation = ablate_channels(network, (x, y))

    def loss(model):
        with torch.no_grad():
            outputs = model(torch.from_numpy(x))
        return torch.nn.functional.cross_entropy(outputs, torch.from_numpy(y)).item()

    for group in network.groups:
        for channel in range(len(group)):
            small = sec.apply(model, network.cut({group.name: [channel]}), x[:1], network=network)
            expected = loss(small) - loss(model)
            found = ablation.estimate[group.name][channel]
            assert found == pytest.approx(expected, rel=1e-3, abs=2e-6)
