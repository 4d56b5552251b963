"""Warnings are given where there is a reason, and nowhere else."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu
from secateurs import data
from secateurs.study.premises import accuracy_of, doubts
from support.detectors import retina


def setting(images=200, shift=0.0):
    """Bright and dark images, and a model that tells them apart by their mean, exactly."""
    labels = np.arange(images) % 2
    pixels = np.random.default_rng(0).uniform(-0.1, 0.1, (images, 1, 4, 4)).astype(np.float32)
    pixels += np.where(labels, 1, -1)[:, None, None, None] + shift
    loaded = data.renormalise(data.from_arrays((pixels, labels), (pixels, labels)), "none")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight.fill_(1), model[2].bias.zero_()
        model[3].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 4)), model[3].bias.zero_()
    return sec.trace(model, pixels[:1]), loaded.validation


def list_warnings(network, split, **settings):
    settings = {"tolerance": 0.01, "is_trained": True} | settings
    return " ".join(doubts(network, split, **settings))


def test_a_sound_setting_raises_no_doubt():
    network, split = setting()
    assert accuracy_of(network, split) == 1.0
    assert list_warnings(network, split) == ""


def test_weights_that_know_nothing_of_these_images():
    network, split = setting(shift=5.0)  # all are bright: half are right, which is chance
    assert accuracy_of(network, split) == 0.5
    assert (
        "classify 50.0 % of the validation images right, which is about chance for 2"
        in list_warnings(network, split)
    )


def test_a_detector_has_no_accuracy():
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model = retina().eval()
    pixels = np.random.default_rng(0).uniform(0, 1, (4, 3, 64, 64)).astype(np.float32)
    labels = np.arange(4) % 2
    loaded = data.renormalise(data.from_arrays((pixels, labels), (pixels, labels)), "none")
    for example in (pixels[:1], ([torch.from_numpy(pixels[0])],)):
        assert accuracy_of(sec.trace(model, example), loaded.validation) is None


def test_fewer_images_than_the_tolerance_can_tell():
    network, split = setting(images=40)
    assert "hold 40 images: one image is 2.5 points" in list_warnings(network, split)
    assert list_warnings(network, split, tolerance=None) == ""


def test_random_weights_are_said_unless_they_will_be_trained():
    network, split = setting()
    assert "weights are random" in list_warnings(network, split, is_trained=False)
    assert list_warnings(network, split, is_trained=False, will_be_trained=True) == ""
