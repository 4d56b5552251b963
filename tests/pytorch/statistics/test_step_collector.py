"""Statistics of a detector (gates, squared gradients, zeros), each by another route."""

import copy

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import channel_index
from secateurs.channels.tensors import Role
from secateurs.criteria.scoring import collect_statistics
from secateurs.pytorch.training.tasks import detect_step
from secateurs.training.objectives import loss_of
from support.detectors import batches, detector, faster, own_loss, retina, ssd

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def scale_channel(model, network, group, channel, factor):
    """The model with what reads one channel scaled: its consumers' weights, along their inputs."""
    made = copy.deepcopy(model)
    tensors = dict(made.named_parameters())
    for tensor in network.tensors.values():
        for axis, role in tensor.roles.items():
            if role is Role.INPUT and tensor.name in tensors:
                where = channel_index(network, group, tensor.axes[axis])
                index = where.index[where.channel == channel]
                weight = tensors[tensor.name].data.movedim(axis, 0)
                weight[torch.from_numpy(index)] *= factor
    return made


def gates_of(network, data):
    loss = loss_of(network, "detection", None, data)
    return collect_statistics(network, Need.GATES, data, loss=loss).gates


def test_gates_of_a_detector_against_finite_differences():
    model, network = detector(ssd)
    ((images, targets),) = data = batches(1)
    gates, group, step = gates_of(network, data), network.groups[0], 1e-3
    assert gates.images == 2
    for channel in range(0, len(group), 3):
        each = []
        for image, target in zip(images, targets, strict=True):
            up, down = (
                own_loss(scale_channel(model, network, group, channel, 1 + way), image, target)
                for way in (step, -step)
            )
            each.append((up - down) / (2 * step))
        found = gates.signed[group.channels[channel]]
        assert found == pytest.approx(sum(each), rel=0.05, abs=2e-3)


@pytest.mark.parametrize("make", [retina, faster, ssd])
def test_gates_of_a_detector_against_the_gradients_of_what_reads_them(make):
    """A gate on what a weight reads is a factor on that weight: its slope is w dL/dw, summed."""
    model, network = detector(make)
    ((images, targets),) = data = batches(1)
    gates, expected = gates_of(network, data), {}
    for image, target in zip(images, targets, strict=True):
        copied = copy.deepcopy(model).train()
        torch.manual_seed(0)
        detect_step(copied, ([image], [target])).backward()
        named = dict(copied.named_parameters())
        for tensor in network.tensors.values():
            weight = named.get(tensor.name)
            for axis, role in tensor.roles.items():
                if role is Role.INPUT and weight is not None and weight.grad is not None:
                    terms = (weight * weight.grad).detach().movedim(axis, 0).flatten(1).sum(1)
                    for group in network.groups:
                        where = channel_index(network, group, tensor.axes[axis])
                        sums = expected.setdefault(group.name, np.zeros(len(group)))
                        np.add.at(sums, where.channel, terms.numpy()[where.index])
    assert len(expected) == len(network.groups)
    for group in network.groups:
        found = gates.signed[group.channels]
        assert found == pytest.approx(expected[group.name], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "apoz", "oracle"])
def test_every_kind_of_criterion_scores_a_detector(criterion):
    _, network = detector(ssd)
    scores = sec.score(network, criterion, data=batches(1), task="detection")
    assert all(np.isfinite(scores[group.name]).all() for group in network.groups)
    assert any(np.ptp(scores[group.name]) > 0 for group in network.groups)


def test_zeros_of_a_detector_counted_by_hooks():
    model, network = detector(ssd)
    data = batches(1)
    seen = []
    hook = model.backbone[1].register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        for image in data[0][0]:
            model([image])
    hook.remove()
    zeros = torch.cat(seen).eq(0).double().mean((0, 2, 3))
    scores = sec.score(network, "apoz", data=data, task="detection")
    group = next(one for one in network.groups if one.name == "backbone.0")
    assert scores[group.name] == pytest.approx(1 - zeros.numpy(), abs=1e-6)
